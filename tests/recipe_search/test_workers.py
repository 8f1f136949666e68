"""Processes that try candidates."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SEARCH = """
import time
from weightsmith.recipe_search.trials.workers import open_workers

if __name__ == "__main__":
    with open_workers(2, None, 1) as workers:
        print(*[slot._process.result() for slot in workers._slots], flush=True)
        time.sleep(100)
"""


def is_there(pid: int) -> bool:
    """And not only waiting for somebody to ask what became of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_they_end_with_a_search_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "search.py"
    script.write_text(SEARCH)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2 and all(map(is_there, pids)) and os.getpid() not in pids
        process.send_signal(signal.SIGKILL)
    waited = time.monotonic() + 30
    while any(map(is_there, pids)) and time.monotonic() < waited:
        time.sleep(0.05)
    assert not any(map(is_there, pids))
