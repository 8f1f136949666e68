"""Finished stages: each keeps a record of what it was made from and what it wrote, and is reused while both hold."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.files.digests import FileDigests, digest
from weightsmith.files.write_whole import write_whole
from weightsmith.model_card.describe_inputs import CARD
from weightsmith.resident_memory import watched_memory

RECORDS = ".stages"
HUB_RESULTS = ".eval_results"  # where the hub looks for results of its benchmarks
FORMAT = 4  # raised when what a stage makes changes


@dataclass(frozen=True)
class Stage:
    """`key` names everything the result depends on; `reused` says that nothing was computed; `memory`: the most that
    it took, in bytes, 0 where that is not known."""

    name: str
    key: str
    seconds: float
    result: dict[str, Any]
    reused: bool
    memory: int = 0


class Stages:
    """The records of one output folder."""

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self._folder, self._log = folder, log
        self._records = folder / RECORDS
        self._records.mkdir(parents=True, exist_ok=True)
        self.files = FileDigests(self._records / "files.json")
        self.done: list[Stage] = []

    def run(
        self, name: str, depends: dict[str, Any], outputs: Sequence[Path], work: Callable[[], dict[str, Any]]
    ) -> Stage:
        """Do `work`, which writes `outputs` and returns a JSON value; or reuse what a run with equal `depends` left."""
        key = digest({"stage": name, "format": FORMAT, **depends})
        path = self._records / f"{name.replace('/', '-')}-{digest(name)[:8]}.json"
        record = _read(path)
        if record and record["key"] == key and record["outputs"] == self._stamps(outputs):
            self._log(f"{name}: unchanged, reused")
            stage = _reused(record)
        else:
            path.unlink(missing_ok=True)  # an interrupted stage leaves no record that could vouch for it
            started = time.monotonic()
            with watched_memory() as peak:
                result = work()
            seconds = time.monotonic() - started
            record = {
                "stage": name,
                "key": key,
                "outputs": self._stamps(outputs),
                "seconds": seconds,
                "memory": peak.bytes,
                "result": result,
            }
            record["digest"] = digest(record)
            write_whole(path, json.dumps(record, indent=1) + "\n")
            self._log(f"{name}: done in {seconds:.1f} s")
            stage = Stage(name, key, seconds, result, False, peak.bytes)
        self.done.append(stage)
        return stage

    def _stamps(self, outputs: Sequence[Path]) -> dict[str, list[int]] | None:
        """Size and change time of every output file: if one is edited or deleted, its stage runs again. What is in a
        folder for the hub alone is a stage of its own."""
        stamps: dict[str, list[int]] = {}
        for output in outputs:
            if not output.exists():
                return None
            for path in _files_in(output) if output.is_dir() else [output]:
                state = path.stat()
                stamps[str(path.relative_to(self._folder))] = [state.st_size, state.st_mtime_ns]
        return stamps


def finished_stages(folder: Path) -> list[Stage]:
    """The stages whose records are in the folder of a run, in the order in which they were finished. The run may go on
    meanwhile."""
    found = []
    for path in (folder / RECORDS).glob("*-*.json"):
        with contextlib.suppress(OSError):  # its stage was begun again
            if record := _read(path):
                found.append((path.stat().st_mtime_ns, _reused(record)))
    return [stage for _, stage in sorted(found, key=lambda entry: entry[0])]


def _reused(record: dict[str, Any]) -> Stage:
    memory = record.get("memory", 0)
    return Stage(record["stage"], record["key"], record["seconds"], record["result"], True, memory)


def _files_in(folder: Path) -> list[Path]:
    hub = (CARD, HUB_RESULTS)
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] not in hub)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    return record if record.pop("digest", None) == digest(record) else None  # a damaged one vouches for nothing
