"""The models of a merge as `InputModel`: where they come from, what their files hold, what their own cards say."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.checkpoint.weights_folder import ADAPTER_WEIGHTS, find_weights
from weightsmith.errors import WeightsmithError
from weightsmith.files.inputs.read_input import read_text
from weightsmith.files.inputs.yaml_file import parse_yaml
from weightsmith.model_card.provenance import InputModel, InputPart, WeightsFile
from weightsmith.models.find_model import numbered
from weightsmith.models.model import Model
from weightsmith.progress import OnProgress, counted, no_progress

CARD = "README.md"
_MAX_CARD_BYTES = 4 << 20
_SAID_BY_GGUF = {  # https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    "general.license": "license",
    "general.license.name": "license_name",
    "general.license.link": "license_link",
    "general.languages": "language",
}
_CHUNK = 4 << 20  # bytes that are read and hashed at once
_HEAD = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
_CACHED = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")  # a license or a language as the hub spells it


def describe_inputs(
    models: Iterable[Model], *, threads: int = 1, on_progress: OnProgress = no_progress
) -> tuple[InputModel, ...]:
    """In the order given, each part hashed once, on `threads`. Two parts of one name get numbers. Raises OSError."""
    models = list(models)
    paths = list(dict.fromkeys(path for model in models for path in model.files))
    files = {path: weights_files(path) for path in paths}
    hub = {path: _hub_place(path) for path in paths}
    local = [file for path in paths if hub[path] is None for file in files[path]]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        hasher = _Hasher(sum(file.stat().st_size for file in local), on_progress)
        try:
            hashes = dict(zip(local, pool.map(hasher.hash, local), strict=True))
        except BaseException:  # Ctrl-C: the other threads end with their next chunk
            hasher.stopped.set()
            raise
    names = part_names(paths)
    parts = {}
    for path in paths:
        hub_id, revision = hub[path] or (None, None)
        described = tuple(WeightsFile(file.name, file.stat().st_size, hashes.get(file)) for file in files[path])
        parts[path] = InputPart(names[path], described, hub_id, revision, **_said_by_card(path, hub_id, revision))
    titles = {str(path): part.title for path, part in parts.items()}
    return tuple(
        InputModel(
            tuple(parts[path] for path in model.files),
            without_paths(model.conversion, titles) if model.conversion else None,
        )
        for model in models
    )


def weights_files(path: Path) -> list[Path]:
    """Those that a model or an adapter is read from."""
    if path.is_file():
        return [path]
    if not (path / "config.json").exists() and (adapter := sorted(path.glob("adapter_model.*"))):
        return [path / ADAPTER_WEIGHTS] if (path / ADAPTER_WEIGHTS).exists() else adapter
    return list(find_weights(path)[0])


def part_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Path -> what a stranger is told of it: the id of a hub model, else its last name, with a number where several
    have one name."""
    return dict(zip(paths, numbered([_name(path) for path in paths]), strict=True))


def model_titles(models: Mapping[str, Model]) -> dict[str, str]:
    """Reference -> what a stranger is told of the model: the names of its parts, joined by +."""
    names = part_names(list(dict.fromkeys(path for model in models.values() for path in model.files)))
    return {reference: "+".join(names[path] for path in model.files) for reference, model in models.items()}


def card_head(folder: Path) -> Mapping[str, Any]:
    """The front matter of a folder's model card; empty where there is none, or none that can be read
    (https://huggingface.co/docs/hub/model-cards)."""
    path = folder / CARD
    if not path.is_file():
        return {}
    try:
        head = _HEAD.match(read_text(path, limit=_MAX_CARD_BYTES))
        return parse_yaml(path, head[1]).tree if head else {}
    except WeightsmithError:
        return {}


def without_paths(text: str, names: Mapping[str, str]) -> str:
    """`text` with the paths `names` replaced by their names, the longest first."""
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    return text


def _hub_place(path: Path) -> tuple[str, str] | None:
    """(id, commit) of a path in the hub's cache (https://huggingface.co/docs/huggingface_hub/guides/manage-cache)."""
    folder = path.absolute() if path.is_dir() else path.absolute().parent
    cached = _CACHED.fullmatch(folder.parent.parent.name)
    if folder.parent.name != "snapshots" or cached is None:
        return None
    return f"{cached['owner']}/{cached['name']}", folder.name


def _name(path: Path) -> str:
    hub = _hub_place(path)
    return hub[0] if hub else path.resolve().name.removesuffix(".gguf")


class _Hasher:
    """Hashes files in several threads, and counts what is done of `total` bytes."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self._total, self._done, self._lock = total, 0, threading.Lock()
        self._report = counted(on_progress, "hashing inputs", "bytes")
        self.stopped = threading.Event()

    def hash(self, path: Path) -> str:
        """XXH3, 128 bits, of the whole file."""
        content, chunk = xxhash.xxh3_128(), bytearray(_CHUNK)
        with path.open("rb", buffering=0) as file:
            while not self.stopped.is_set() and (count := file.readinto(chunk)):
                content.update(memoryview(chunk)[:count])
                with self._lock:
                    self._done += count
                    self._report(self._done, self._total)
        return content.hexdigest()


def _head_of_file(path: Path) -> Mapping[str, Any]:
    """What a GGUF file says of itself, under the names that a card has for it."""
    if path.suffix.lower() != ".gguf":
        return {}
    said = GGUFFile(path).metadata
    return {name: said[key] for key, name in _SAID_BY_GGUF.items() if key in said}


def _said_by_card(path: Path, hub_id: str | None, revision: str | None) -> dict[str, Any]:
    """`license` and `languages`, as keywords of `InputPart`."""
    # A card beside a file may be about another one, but for that of its repository.
    own = path if path.is_dir() else path.parent if hub_id else None
    head = card_head(own) if own else _head_of_file(path)
    known = {key: head[key] for key in ("license", "license_name", "license_link") if isinstance(head.get(key), str)}
    if not _WORD.fullmatch(known.get("license", "")):
        known = {}
    link = known.get("license_link")
    if link and not link.startswith(("https://", "http://")):
        if hub_id and _WORD.fullmatch(link):
            known["license_link"] = f"https://huggingface.co/{hub_id}/blob/{revision}/{link}"
        else:
            del known["license_link"]  # a file beside that card
    languages = head.get("language")
    languages = languages if isinstance(languages, list) else [languages]
    return known | {"languages": tuple(word for word in languages if isinstance(word, str) and _WORD.fullmatch(word))}
