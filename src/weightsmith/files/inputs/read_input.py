"""The one way to read a file that somebody else made: a regular file, of a bounded size, as UTF-8, as JSON that is
bounded too. Every error names the file."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from weightsmith.errors import CheckpointError, WeightsmithError
from weightsmith.files.system_calls import BINARY

Kind = TypeVar("Kind", dict, list)

MAX_BYTES = 64 << 20  # of a configuration; those of real models have kilobytes
MAX_TOKENIZER_BYTES = 512 << 20
MAX_TEXT_BYTES = 1 << 30  # to be evaluated, or to calibrate with
MAX_LINE_BYTES = 16 << 20
_DIGITS = 40  # of a number: 64 bits have 20
_SHOWN = 120  # characters of what a parser says
_KINDS = {dict: "a JSON object", list: "a JSON array"}
_FILE_TYPES = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def open_regular(path: Path, error: type[WeightsmithError] = CheckpointError) -> int:
    """A descriptor for reading. Raises `error` where `path` is no regular file or cannot be opened: a pipe would be
    waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | BINARY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as problem:
        raise error(f"{path}: no such file", path=path) from problem
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot be opened: {_reason(problem)}", path=path) from problem
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = next((name for is_type, name in _FILE_TYPES if is_type(mode)), "a device")
        raise error(f"{path}: is {what}, not a file", path=path)
    return descriptor


def read_head(descriptor: int, size: int) -> bytes:
    """The first `size` bytes, or what there is of them; the descriptor is closed."""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(size)


def read_bytes(path: Path, *, limit: int = MAX_BYTES, error: type[WeightsmithError] = CheckpointError) -> bytes:
    """The content of a file of at most `limit` bytes. Raises `error`."""
    with os.fdopen(open_regular(path, error), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise error(f"{path}: has {size:,} bytes; a file of this kind has at most {limit:,}", path=path)
        try:
            return file.read(limit + 1)
        except OSError as problem:
            raise error(f"{path}: cannot be read: {_reason(problem)}", path=path) from problem


def read_text(path: Path, *, limit: int = MAX_BYTES, error: type[WeightsmithError] = CheckpointError) -> str:
    """A file of text in UTF-8. Raises `error`."""
    try:
        return read_bytes(path, limit=limit, error=error).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: is no text in UTF-8: byte {problem.start} is {problem.object[problem.start]:#04x}",
                    path=path) from problem  # fmt: skip


def read_json(
    path: Path,
    kind: type[Kind] = dict,
    *,
    limit: int = MAX_BYTES,
    error: type[WeightsmithError] = CheckpointError,
) -> Kind:
    """What a JSON file holds, an object unless `kind` is list. Raises `error`."""
    content = parse_json(read_text(path, limit=limit, error=error), path, error=error)
    if not isinstance(content, kind):
        raise error(f"{path}: is not {_KINDS[kind]} but {_name_of(content)}{_remedy(error)}", path=path)
    return content


def read_json_lines(path: Path, *, limit: int, error: type[WeightsmithError]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a file that has one in each line; empty lines are passed over. Raises `error`."""
    for number, line in enumerate(read_text(path, limit=limit, error=error).split("\n"), start=1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE_BYTES:
            message = f"a line of {len(line):,} characters; at most {MAX_LINE_BYTES:,}"
            raise error(f"{path}:{number}: {message}", path=path, line=number)
        content = parse_json(line, path, line=number, error=error)
        if not isinstance(content, dict):
            message = f"is not {_KINDS[dict]} but {_name_of(content)}"
            raise error(f"{path}:{number}: {message}", path=path, line=number)
        yield number, content


def parse_json(
    text: str | bytes,
    path: Path,
    *,
    line: int | None = None,
    part: str = "",
    unique: bool = False,
    error: type[WeightsmithError] = CheckpointError,
) -> Any:
    """Values of JSON `text` that are bounded: numbers of few digits, nesting that Python can follow, text that can be
    written again, and, if `unique`, no key twice. `line`, `part`: where in `path` it is. Raises `error`."""
    place = f"{path}" + (f":{line}" if line else "") + (f": {part}" if part else "")
    try:
        content = json.loads(text, parse_int=_integer, object_pairs_hook=_mapping if unique else None)
        if "\\ud" in (text if isinstance(text, str) else text.decode("utf-8")).lower():
            json.dumps(content, ensure_ascii=False).encode("utf-8")  # half of a pair cannot be written
    except RecursionError as problem:
        message, cause = "nested too deep to be read", problem
    except UnicodeEncodeError as problem:
        message, cause = "holds half of a surrogate pair, which is no text", problem
    except (ValueError, UnicodeDecodeError) as problem:
        message, cause = f"not valid JSON: {str(problem)[:_SHOWN]}", problem
    else:
        return content
    raise error(f"{place}: {message}{_remedy(error)}", path=path, line=line) from cause


def _remedy(error: type[WeightsmithError]) -> str:
    return "; download it again" if error is CheckpointError else ""


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        (duplicate, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {duplicate[:_SHOWN]!r} is listed twice")
    return mapping


def _name_of(content: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(content), "a number")


def _reason(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)
