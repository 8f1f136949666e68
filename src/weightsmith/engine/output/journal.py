"""Which tensors of a merge are on the disk, so that a killed run resumes there.

A journal is a file of JSON lines in the scratch folder: first what the run is (a digest of recipe, inputs and layout,
part by part), then each finished tensor with its digest. A line is written when the bytes it speaks of are on the disk.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

JOURNAL = "journal.jsonl"
SECONDS_BETWEEN_LINES = 0.1  # short, so that the disk is kept busy from the first block on

Record = dict[str, Any]


def read_journal(folder: Path) -> tuple[dict[str, str], dict[str, Record]] | None:
    """(what the run was, finished tensors); None: no run was begun here. A line that was cut short is skipped."""
    try:
        lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    records: list[Record] = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    if not records or not isinstance(records[0], dict) or not isinstance(records[0].get("run"), dict):
        return None
    return records[0]["run"], {record["tensor"]: record for record in records[1:] if _is_whole(record)}


def _is_whole(record: Any) -> bool:
    """Whether a line says what it has to: a disk that was full may have written half of it."""
    kinds = {"tensor": str, "digest": str, "ties": int, "not_finite": list}
    return isinstance(record, dict) and all(isinstance(record.get(key), kind) for key, kind in kinds.items())


class Journal:
    """Writes lines on a thread of its own: `sync` is called, which brings to the disk what was written, then the lines
    of the tensors that were finished before it."""

    def __init__(self, folder: Path, run: Mapping[str, str], sync: Callable[[], None], *, resumed: bool) -> None:
        self._file = (folder / JOURNAL).open("a" if resumed else "w", encoding="utf-8")
        self._sync, self._lock, self._stop = sync, threading.Lock(), threading.Event()
        self._waiting: list[Record] = []
        if resumed:
            self._file.write("\n")  # behind a line that may have been cut short
        else:
            self._write([{"run": dict(run)}])
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def finished(self, record: Record) -> None:
        """A tensor is written; any thread may call it."""
        with self._lock:
            self._waiting.append(record)

    def close(self) -> None:
        """All bytes and all lines are on the disk afterwards. Raises what went wrong in between."""
        self._stop.set()
        self._thread.join()
        if self._failure:
            raise self._failure
        self._flush()
        self._file.close()

    def abandon(self) -> None:
        """Stop without waiting for the disk more than once; what is not written is done again by the next run."""
        self._stop.set()
        self._thread.join()
        self._file.close()

    def _work(self) -> None:
        try:
            while not self._stop.wait(SECONDS_BETWEEN_LINES):
                self._flush()
        except BaseException as error:  # disk full; said by close
            self._failure = error

    def _flush(self) -> None:
        with self._lock:
            ready, self._waiting = self._waiting, []
        self._sync()
        if ready:
            self._write(ready)

    def _write(self, records: list[Record]) -> None:
        self._file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        self._file.flush()
        os.fsync(self._file.fileno())
