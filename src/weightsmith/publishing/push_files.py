"""Which files of an output go to the hub, and what is changed in them on the way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weightsmith.engine.merge import RECIPE_COPY
from weightsmith.errors import OutputError, shown
from weightsmith.files.inputs.links import check_links
from weightsmith.files.inputs.read_input import read_text
from weightsmith.files.suggestions import nearest
from weightsmith.gguf.manifest import Manifest
from weightsmith.model_card.card import may_replace_card, signed
from weightsmith.model_card.describe_inputs import CARD
from weightsmith.model_card.provenance import read_provenance
from weightsmith.pipeline.stages import HUB_RESULTS, RECORDS

_WEIGHTS = (".safetensors", ".gguf")
_TEXTS = (".json", ".jinja", ".txt", ".md", ".yml", ".yaml")
_NAMES = ("Modelfile", "template", "params", "system", "tokenizer.model", "LICENSE", "NOTICE")
_OURS = ("manifest.json", "checksums.json")  # about this machine's files: their paths, times and sizes
_SCANNED = 8 << 20  # bytes of a text that is searched for paths
_MODEL_ID = re.compile(r'^model_id = "\."  # this folder, or its id on the hub$', re.MULTILINE)


@dataclass(frozen=True)
class PushFiles:
    """`files`: name in the repository -> the file; `texts`: instead, its new content; `left_out`: files of the output
    that do not go, and why; `warnings`: what others would see of this machine."""

    files: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Of all of them."""
        return sum(path.stat().st_size for path in self.files.values()) + sum(
            len(text.encode()) for text in self.texts.values()
        )


def files_to_push(out: Path, repo: str, *, types: Sequence[str] = ()) -> PushFiles:
    """Of a merged folder, a folder of GGUF files, or the folder of a run, whose two are put together. `types`: of GGUF,
    all if empty. Raises OutputError for a folder that holds no model."""
    parts = [out / "merged", out / "gguf"] if (out / RECORDS).is_dir() else [out]
    parts = [part for part in parts if part.is_dir()]
    pushed = PushFiles()
    for part in parts:
        check_links(part)
        for path in _files_in(part):
            name = path.relative_to(part).as_posix()
            if name in pushed.files:  # a run's two folders: the merged one comes first
                continue
            reason = _reason_to_stay(name)
            if reason:
                pushed.left_out[name] = reason
            else:
                pushed.files[name] = path
        _check_types(part, pushed, types)
    if not any(name.endswith(_WEIGHTS) for name in pushed.files):
        raise OutputError(
            f"{out}: holds no model to push: no .safetensors or .gguf file. Name the folder of a merge, an export or a "
            "run",
            path=out,
        )
    _rewrite(pushed, repo)
    return PushFiles(pushed.files, pushed.texts, pushed.left_out, tuple(_paths_of_this_machine(pushed)))


def _files_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") and part != HUB_RESULTS for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _reason_to_stay(name: str) -> str | None:
    base = name.rpartition("/")[2]
    if base in _OURS:
        return "is about the files on this machine"
    if name.endswith((*_WEIGHTS, *_TEXTS)) or base in _NAMES or base.startswith(("LICENSE", "NOTICE")):
        return None
    return "is no file of a model that weightsmith writes"


def _check_types(folder: Path, pushed: PushFiles, types: Sequence[str]) -> None:
    """Take the GGUF files of other types out."""
    entries = {entry.file: entry.type for entry in Manifest(folder).entries.values() if entry.file in pushed.files}
    known = sorted({gguf_type for name, gguf_type in entries.items() if name.endswith(".gguf")})
    if not known:
        return
    for gguf_type in types:
        if gguf_type.lower() not in known:
            raise OutputError(f"{folder}: has no file of the type {shown(gguf_type)}{nearest(gguf_type, known)}")
    wanted = {gguf_type.lower() for gguf_type in types}
    for name, gguf_type in entries.items():
        if name.endswith(".gguf") and wanted and gguf_type not in wanted:
            del pushed.files[name]
            pushed.left_out[name] = "is of another type"
        elif name.endswith(".gguf") and gguf_type not in name.lower():
            raise OutputError(
                f"{folder / name}: its name does not have its type, {gguf_type}, which `ollama run hf.co/...:TYPE` "
                "looks for; export it again without a name of your own",
                path=folder / name,
            )


def _rewrite(pushed: PushFiles, repo: str) -> None:
    """The card names the repository; the recipe names no path."""
    if card := pushed.files.get(CARD):
        text = read_text(card)
        if may_replace_card(card.parent):
            text = signed(_MODEL_ID.sub(f'model_id = "{repo}"', text))
        pushed.texts[CARD] = text
        del pushed.files[CARD]
    if recipe := pushed.files.pop(RECIPE_COPY, None):
        provenance = read_provenance(recipe.parent)
        if provenance and provenance.recipe:
            pushed.texts[RECIPE_COPY] = provenance.recipe
        else:
            pushed.left_out[RECIPE_COPY] = "may name paths of this machine"


def _paths_of_this_machine(pushed: PushFiles) -> Iterator[str]:
    """Warnings about texts that name this user's folder, or the one that the command runs in."""
    places = {str(path) for path in (Path.home(), Path.cwd()) if len(path.parts) > 2}
    for name, path in sorted(pushed.files.items()):
        if name.endswith(_WEIGHTS) or path.stat().st_size > _SCANNED or path.suffix == ".model":
            continue
        yield from _warned(name, path.read_bytes().decode("utf-8", "replace"), places)
    for name, text in pushed.texts.items():
        yield from _warned(name, text, places)


def _warned(name: str, text: str, places: set[str]) -> Iterator[str]:
    for place in sorted(places):
        if place in text:
            yield f"{name} names {place}, which everybody will see"
