"""The run folders that the page keeps: each is one of `weightsmith run`, with a small record of how far it is."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from weightsmith.errors import OutputError
from weightsmith.files.folder_lock import is_held
from weightsmith.files.write_whole import write_whole
from weightsmith.pipeline.stages import RECORDS

PAGE = ".page"  # in a run folder: state.json, progress.json, log.txt, alive
PIPELINE = "pipeline.yml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LOG_SHOWN = 40  # lines

State = Literal["queued", "running", "done", "failed", "cancelled", "stopped"]


@dataclass(frozen=True)
class RunState:
    """`since`: seconds since the epoch when it became so; `message`: what a run that failed said; `process`: of the
    last one that ran."""

    state: State
    since: float
    message: str = ""
    process: int | None = None


@dataclass(frozen=True)
class RunProgress:
    """What a run does, as a `Progress` says it, and how long the stage still takes, where that is known."""

    stage: str
    done: int
    total: int
    unit: str
    seconds_left: float | None


class RunFolder:
    """One run: `weightsmith run FOLDER/pipeline.yml FOLDER` does the same."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name, self._page = folder, folder.name, folder / PAGE

    @classmethod
    def create(cls, runs: Path, name: str, pipeline: str) -> RunFolder:
        """A folder with its pipeline. Raises OutputError where the name is none, or is taken."""
        if not _NAME.fullmatch(name):
            raise OutputError(f"{name!r}: a run's name has letters, digits, '.', '_' and '-', at most 64")
        run = cls(runs / name)
        try:
            run.folder.mkdir()
        except FileExistsError:
            raise OutputError(f"{name}: there is a run of that name; choose another", path=run.folder) from None
        run._page.mkdir()
        (run.folder / RECORDS).mkdir()
        write_whole(run.folder / PIPELINE, pipeline)
        return run

    @property
    def pipeline(self) -> Path:
        return self.folder / PIPELINE

    @property
    def state(self) -> RunState:
        """What is on the record, but for a run that says it runs and does not: somebody killed it."""
        record = _read(self._page / "state.json")
        try:
            state = RunState(**record)
        except TypeError:
            return RunState("stopped", 0.0)
        if state.state == "running" and not self.is_alive:
            return replace(state, state="stopped", message="its process ended before it was done")
        return state

    def set_state(self, state: State, message: str = "") -> None:
        process = os.getpid() if state == "running" else None
        write_whole(self._page / "state.json", json.dumps(asdict(RunState(state, time.time(), message, process))))

    @property
    def is_alive(self) -> bool:
        """Whether a process works on it."""
        return is_held(self.lock)

    @property
    def lock(self) -> Path:
        """What the process that works on it holds."""
        return self._page / "alive"

    @property
    def progress(self) -> RunProgress | None:
        """None before the first stage has told anything."""
        try:
            return RunProgress(**_read(self._page / "progress.json"))
        except TypeError:
            return None

    def set_progress(self, progress: RunProgress) -> None:
        write_whole(self._page / "progress.json", json.dumps(asdict(progress)))

    @property
    def log_file(self) -> Path:
        return self._page / "log.txt"

    @property
    def log(self) -> list[str]:
        """The last lines of what it said."""
        try:
            return self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_SHOWN:]
        except OSError:
            return []

    @property
    def report(self) -> Path | None:
        path = self.folder / "report.html"
        return path if path.is_file() else None

    def results(self) -> list[Path]:
        """The files that a person takes away, relative to the folder."""
        found = [
            path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()
        ]
        return sorted(path for path in found if not any(part.startswith(".") for part in path.parts))

    def interrupt(self) -> None:
        """Ctrl-C for its process, and what that has started."""
        state = self.state
        if state.state == "running" and state.process:
            os.killpg(state.process, signal.SIGINT)


def run_folders(runs: Path) -> Iterator[RunFolder]:
    """The page's runs, in the order of their names."""
    for folder in sorted(runs.iterdir()):
        if (folder / PAGE).is_dir() and not folder.is_symlink() and not (folder / PAGE).is_symlink():
            yield RunFolder(folder)


def find_run(runs: Path, name: str) -> RunFolder | None:
    """The run of that name."""
    if not _NAME.fullmatch(name):
        return None
    return next((run for run in run_folders(runs) if run.name == name), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
