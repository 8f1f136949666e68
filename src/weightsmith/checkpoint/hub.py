"""Models of the Hugging Face hub: their data files downloaded, or nothing but headers fetched by range requests."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.formats.pytorch_file import MAX_PICKLE_BYTES
from weightsmith.checkpoint.formats.safetensors_file import MAX_HEADER_BYTES
from weightsmith.checkpoint.hub_errors import hub_reason
from weightsmith.errors import CheckpointError

HEADERS_ONLY = ".headers-only"  # marks a folder whose weights are holes
_FIRST, _TAIL = 1 << 16, 1 << 18  # bytes of the first request for a header, and for the end of a zip archive
_LOCAL_HEADER = 4096  # more than what stands before an entry's content in a zip archive
_SMALL = 64 << 20  # no configuration or tokenizer file is larger than this
_DATA = (".json", ".jinja", ".txt", ".model")
_CARD = ("README.md",)  # says under which license it is
_PYTORCH = (".bin", ".pth")
_MIRRORING = threading.Lock()  # two threads that ask for one model fetch it once


def download_model(repo: str, revision: str | None) -> Path:
    """The folder of a hub model's data files, in the hub's own cache; no Python file is downloaded. Raises
    CheckpointError."""
    from huggingface_hub import snapshot_download

    names, commit = _listing(repo, revision)
    with _HubErrors(repo, revision):
        return Path(
            snapshot_download(
                repo, revision=commit, allow_patterns=[*_CARD, *_small_files(names), *_weight_files(repo, names)]
            )
        )


def mirror_headers(repo: str, revision: str | None) -> Path:
    """A folder like the model's in which the files of weights have their true size and their headers, and holes for the
    weights themselves: some hundred kB are fetched, whatever the model's size, once for each commit. It is removed at
    exit. Raises CheckpointError."""
    names, commit = _listing(repo, revision)
    with _MIRRORING:
        return _mirrored(repo, revision, commit, tuple(names))


@cache
def _mirrored(repo: str, revision: str | None, commit: str, names: tuple[str, ...]) -> Path:
    from huggingface_hub import HfFileSystem

    folder = Path(tempfile.mkdtemp(prefix="weightsmith-headers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    files = HfFileSystem()
    with _HubErrors(repo, revision):
        for name in _small_files(names):
            path = f"{repo}@{commit}/{name}"
            if files.info(path)["size"] <= _SMALL:
                files.get_file(path, str(folder / name))
        for name in _weight_files(repo, names):
            path = f"{repo}@{commit}/{name}"
            size = int(files.info(path)["size"])

            def fetch(start: int, stop: int, path: str = path) -> Any:
                return files.cat_file(path, start=start, end=stop, cache_type="none")

            _mirror(folder / name, size, fetch)
    (folder / HEADERS_ONLY).touch()
    return folder


def _mirror(path: Path, size: int, fetch: Callable[[int, int], bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(size)

    def copy(start: int, stop: int) -> bytes:
        content = fetch(max(0, start), min(stop, size))
        with path.open("r+b") as file:
            file.seek(max(0, start))
            file.write(content)
        return content

    if path.suffix == ".safetensors":
        head = copy(0, _FIRST)
        length = int.from_bytes(head[:8], "little")
        if len(head) < 8 + length <= 8 + MAX_HEADER_BYTES:
            copy(len(head), 8 + length)
        return
    end = size
    for tail in (_TAIL, _TAIL << 4):  # the directory of a large archive begins before the part that is fetched first
        copy(size - tail, end)
        end = size - tail
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except Exception:
            continue  # where it is no archive, reading it says what is wrong
        for entry in entries:
            if entry.filename.endswith(("data.pkl", "/byteorder")) and entry.file_size <= MAX_PICKLE_BYTES:
                copy(entry.header_offset, entry.header_offset + entry.file_size + _LOCAL_HEADER)
        return


def _listing(repo: str, revision: str | None) -> tuple[list[str], str]:
    """(the files at the root of a repository, the commit that `revision` is now)."""
    from huggingface_hub import HfApi

    with _HubErrors(repo, revision):
        info: Any = HfApi().model_info(repo, revision=revision)
        return [s.rfilename for s in info.siblings or [] if "/" not in s.rfilename], info.sha


def _small_files(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.endswith(_DATA)]


def _weight_files(repo: str, names: Sequence[str]) -> list[str]:
    """The files that hold the weights, one form of them: safetensors before PyTorch's, converted before original."""
    for endings in ((".safetensors",), _PYTORCH):
        files_of_format = [
            n for n in names if n.endswith(endings) and not n.startswith(("training_args", "optimizer", "rng_state"))
        ]
        if files_of_format:
            return [name for name in files_of_format if not name.startswith("consolidated.")] or files_of_format
    if any(name.endswith(".gguf") for name in names):
        raise CheckpointError(f"{repo}: holds only GGUF files; download the one you mean and name the file")
    raise CheckpointError(f"{repo}: holds no weights (.safetensors, .bin, .pth) at its root")


class _HubErrors:
    """Errors of the hub, as one sentence about the model."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self.name = f"{repo}@{revision}" if revision else repo

    def __enter__(self) -> None:
        pass

    def __exit__(self, exception_type: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CheckpointError) or not isinstance(error, Exception):
            return
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        is_unknown = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
        reason = f"{'no such folder here and ' if is_unknown else ''}{hub_reason(error)}"
        raise CheckpointError(f"{self.name}: {reason}. A local folder works without the hub") from error
