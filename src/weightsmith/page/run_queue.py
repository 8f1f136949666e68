"""One run after the other: each in a process of its own that goes on when the page is closed or its server ends."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from weightsmith import child_process
from weightsmith.errors import OutputError
from weightsmith.page.run_folders import RunFolder, run_folders

_SECONDS = 0.3  # between two looks at what runs


class RunQueue:
    """Starts what waits in the folder `runs`, the oldest first, while nothing else runs there.

    >>> with RunQueue(Path("runs")) as queue:
    ...     queue.add(RunFolder.create(Path("runs"), "first", text))
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._end, self._changing = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> RunQueue:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What runs goes on."""
        self._end.set()
        self._thread.join()

    def add(self, run: RunFolder) -> None:
        """Let it wait for its turn: a new one, or one to be resumed. Raises OutputError where it waits or runs."""
        with self._changing:
            if run.is_alive:
                raise OutputError(f"{run.name}: runs already", path=run.folder)
            run.set_state("queued")

    def cancel(self, run: RunFolder) -> None:
        """End it as Ctrl-C does: what is finished stays, and `add` goes on from there."""
        with self._changing:
            if run.is_alive:
                run.interrupt()
            elif run.state.state == "queued":
                run.set_state("cancelled")

    def _watch(self) -> None:
        while not self._end.wait(_SECONDS):
            with self._changing:
                self._children = [child for child in self._children if child.poll() is None]
                runs = list(run_folders(self.runs))
                if self._children or any(run.is_alive for run in runs):
                    continue
                waiting = [run for run in runs if run.state.state == "queued"]
                if waiting:
                    self._start(min(waiting, key=lambda run: run.state.since))

    def _start(self, run: RunFolder) -> None:
        command = [*child_process.module_command("weightsmith.page.run_job"), str(run.folder)]
        with run.log_file.open("ab") as log:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.runs, start_new_session=True
            )
        self._children.append(child)
