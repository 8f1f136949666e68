"""`provenance.json`: what a model was made from, in words that hold on any machine: names, ids of the hub, hashes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from weightsmith.files.inputs.read_input import read_json
from weightsmith.version import __version__

PROVENANCE = "provenance.json"
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class WeightsFile:
    """`xxh3`: XXH3, 128 bits, of all its bytes; None where the revision of a hub model names them."""

    name: str
    bytes: int
    xxh3: str | None = None


@dataclass(frozen=True)
class InputPart:
    """A folder or file that weights are read from: a model, or one adapter on it. `hub_id` and `revision` (a commit)
    are those of a model from the hub; `license`, `license_name`, `license_link` and `languages` are what its own card
    says."""

    name: str
    files: tuple[WeightsFile, ...]
    hub_id: str | None = None
    revision: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Its id on the hub, or its name."""
        return self.hub_id or self.name


@dataclass(frozen=True)
class InputModel:
    """A model of a recipe: the base of its weights and the adapters on it. `conversion`: how it was read, in words;
    None where names and values were taken as they are."""

    parts: tuple[InputPart, ...]
    conversion: str | None = None

    @property
    def title(self) -> str:
        """`base+adapter`, of the names of its parts."""
        return "+".join(part.title for part in self.parts)


@dataclass(frozen=True)
class Provenance:
    """`recipe`: YAML that names no path, None of a model that was no merge; `seed`: None where nothing was random."""

    method: str | None
    recipe: str | None
    inputs: tuple[InputModel, ...]
    seed: int | None = None
    architectures: tuple[str, ...] = ()
    weightsmith: str = __version__

    def write(self, folder: Path) -> None:
        """Write it as `provenance.json`."""
        (folder / PROVENANCE).write_text(
            json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


_PROVENANCE = TypeAdapter(Provenance)


def read_provenance(folder: Path) -> Provenance | None:
    """What `merge` wrote into a model's folder; None where there is nothing that it could have written."""
    path = folder / PROVENANCE
    if not path.is_file():
        return None
    try:
        return _PROVENANCE.validate_python(read_json(path, limit=_MAX_BYTES))
    except ValidationError:
        return None


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
