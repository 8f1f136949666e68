"""From what a person writes, `folder`, `file.gguf`, `owner/name@revision`, any of these `+adapter`, to paths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from weightsmith.checkpoint.hub import download_model, mirror_headers
from weightsmith.errors import CheckpointError
from weightsmith.files.find_path import find_path

_STATE_DICTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")


def find_model(reference: str, beside: Path | None, *, headers_only: bool = False) -> tuple[Path, list[Path]]:
    """(the base's folder or GGUF file, the adapters' folders or GGUF files). Relative paths are tried from the working
    directory, then from `beside`; what is no path and looks like a hub id is downloaded, or its headers alone are.
    Raises CheckpointError."""
    parts = reference.split("+")
    for count in range(len(parts), 0, -1):  # a path may hold a plus of its own: the longest that exists is the base
        base = find_path("+".join(parts[:count]), beside)
        if base is not None:
            break
    else:
        count, base = 1, _from_hub(parts[0], headers_only)
        if base is None:
            raise CheckpointError(
                f"{parts[0]}: no such folder or file (model {reference!r}). A model is a local folder with safetensors "
                "or PyTorch files, a .gguf file, a hub id such as owner/name@revision, or any of these followed by "
                "+ADAPTER",
                path=parts[0],
            )
    if base.is_file() and not is_gguf(base) and not is_state_dict(base):
        raise CheckpointError(f"{base}: a model is a folder or a .gguf file", path=base)
    adapters = []
    for part in parts[count:]:
        adapter = find_path(part, beside) or _from_hub(part, headers_only=False)
        if adapter is None or not (adapter.is_dir() or is_gguf(adapter)):
            raise CheckpointError(f"{part}: no such adapter, a folder or .gguf file (model {reference!r})", path=part)
        adapters.append(adapter)
    return base, adapters


def is_adapter(reference: str, beside: Path | None) -> bool:
    """Whether a model is an adapter that has no base before it; of a hub id, by its headers. False for what cannot be
    found: that is said when it is opened."""
    try:
        return (find_model(reference, beside, headers_only=True)[0] / "adapter_config.json").is_file()
    except CheckpointError:
        return False


def short_name(reference: str) -> str:
    """The ends of its paths: `out/merged` is merged, `base.gguf+adapters/dates` is base+dates."""
    return "+".join(Path(part).name.removesuffix(".gguf") for part in reference.split("+"))


def numbered(names: Sequence[str]) -> list[str]:
    """Each name once: a name that several have gets numbers.

    >>> numbered(["last", "base", "last"])
    ['last (1)', 'base', 'last (2)']
    """
    many, seen = Counter(names), Counter[str]()
    told_apart = []
    for name in names:
        seen[name] += 1
        told_apart.append(f"{name} ({seen[name]})" if many[name] > 1 else name)
    return told_apart


def unique_ends(references: Sequence[str]) -> dict[str, str]:
    """Reference -> the ends of its paths, or the whole references where those do not tell them apart."""
    ends = ["+".join(Path(part).name for part in reference.split("+")) for reference in references]
    return dict(zip(references, ends if len(set(ends)) == len(ends) else references, strict=True))


def is_gguf(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".gguf"


def is_state_dict(path: Path) -> bool:
    """Whether it is a file of weights alone, without a configuration."""
    return path.is_file() and path.suffix.lower() in _STATE_DICTS


def _from_hub(reference: str, headers_only: bool) -> Path | None:
    match = _HUB_ID.fullmatch(reference)
    if not match:
        return None
    fetch = mirror_headers if headers_only else download_model
    return fetch(match["repo"], match["revision"])
