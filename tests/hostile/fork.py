"""One command on one bad input, in a fork of this process: what it says, how it ends, what it takes, what it leaves."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 60.0  # something that never ends, not a slow machine
MEMORY = 400 << 20  # bytes beyond those of this process
_LONGEST = 3000  # characters of a message
_TICK = 0.005
_HEAD = 1 << 16  # bytes of a file that are compared; with its size and time, enough for files that may be sparse

REFUSED, TAKEN, EITHER = (2,), (0,), (0, 2)


@dataclass(frozen=True)
class Case:
    """`build` writes the inputs into an empty folder, where `command` then runs; `named`: what the message has to name;
    `outputs`: what the command may write, none of which is there after it refused."""

    name: str
    build: Callable[[Path], object]
    command: Sequence[str]
    named: str
    codes: tuple[int, ...] = REFUSED
    outputs: Sequence[str] = ("out",)


@dataclass
class Outcome:
    code: int
    said: str
    seconds: float
    memory: int
    problems: list[str] = field(default_factory=list)


def run_case(case: Case, folder: Path) -> Outcome:
    """Build, run, and hold the outcome against what the program promises."""
    folder.mkdir()
    case.build(folder)
    before = _content(folder)
    outcome = run_forked(case.command, folder)
    outcome.problems += _problems(case, outcome)
    if outcome.code != 0:
        left = [name for name in os.listdir(folder) if name in _possible(case) and name not in before]
        if left:
            outcome.problems.append(f"left {left}")
    after = _content(folder)
    own = tuple(f".{name}.partial" for name in case.outputs)
    changed = [
        name for name, digest in before.items() if after.get(name) != digest and not name.startswith(own or "\0")
    ]
    if changed:
        outcome.problems.append(f"changed its inputs: {changed[:3]}")
    return outcome


def _possible(case: Case) -> set[str]:
    return {*case.outputs, *(f".{name}.partial" for name in case.outputs)}


def _problems(case: Case, outcome: Outcome) -> list[str]:
    problems = []
    if outcome.code not in case.codes:
        problems.append(f"exit {outcome.code}, not {' or '.join(map(str, case.codes))}")
    if "Traceback" in outcome.said:
        problems.append("a traceback")
    if outcome.code == 2:
        messages = [line for line in outcome.said.splitlines() if line.startswith(("weightsmith:", "Error:"))]
        if len(messages) != 1:
            problems.append(f"{len(messages)} messages")
        elif case.named not in messages[0]:
            problems.append(f"does not name {case.named!r}")
        if len(outcome.said) > _LONGEST:
            problems.append(f"{len(outcome.said)} characters")
        if not all(c.isprintable() or c in "\n\t" for c in outcome.said):
            problems.append("control characters")
    if outcome.seconds > SECONDS:
        problems.append(f"{outcome.seconds:.0f} s")
    if outcome.memory > MEMORY:
        problems.append(f"{outcome.memory >> 20} MB")
    return problems


def run_forked(command: Sequence[str], folder: Path) -> Outcome:
    log = folder.with_suffix(".log")
    sys.stdout.flush()
    sys.stderr.flush()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_here(command, folder, log)
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - began > SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(_TICK)
    seconds = time.monotonic() - began
    said = log.read_text(errors="replace") if log.exists() else ""
    return Outcome(os.waitstatus_to_exitcode(status), said, seconds, max(0, (usage.ru_maxrss << 10) - own))


def _run_here(command: Sequence[str], folder: Path, log: Path) -> None:
    code = 1
    try:
        number = os.open(log, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(number, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
        os.chdir(folder)
        sys.argv = ["weightsmith", *command]
        from weightsmith.commands.app import main

        code = 0
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException as error:
        code = 1
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _content(folder: Path) -> dict[str, str]:
    """What lies in a folder: names, and digests of files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            state = path.stat()
            with path.open("rb") as file:
                head = hashlib.sha256(file.read(_HEAD)).hexdigest() if os.access(path, os.R_OK) else ""
            found[name] = f"{state.st_size} {state.st_mtime_ns} {head}"
        else:
            found[name] = "no file"
    return found
