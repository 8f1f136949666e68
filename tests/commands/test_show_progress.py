"""Progress as a person sees it: on a terminal, without colours, and where there is no terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import save_stranger
from weightsmith.commands.terminal import show_progress as module
from weightsmith.progress import Progress


def test_lines_say_the_stage_the_rate_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with module.show_progress(quiet=False) as (log, on_progress):
        on_progress(Progress("merging", 0, 4_000_000_000, "bytes"))
        now = 20.0
        on_progress(Progress("merging", 1_000_000_000, 4_000_000_000, "bytes"))
        on_progress(Progress("merging", 1_000_000_001, 4_000_000_000, "bytes"))  # too soon after the last line
        log("merge: done")
        now = 40.0
        on_progress(Progress("searching", 3, 60, "trials"))
        now = 70.0
        on_progress(Progress("searching", 6, 0, "trials"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "merging: 1.00 GB of 4.00 GB, 50 MB/s, 60 s left",
        "merge: done",
        "searching: 3 of 60 trials",
        "searching: 6 trials",
    ]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with module.show_progress(quiet=True) as (log, on_progress):
        log("a line")
        on_progress(Progress("merging", 1, 2, "bytes"))
    assert capsys.readouterr().err == ""


SHOW_NAMES = """
import sys
from weightsmith.commands.terminal.show_progress import show_progress
from weightsmith.commands.terminal.tables import plain_console
from weightsmith.progress import Progress
from rich.table import Table
table = Table()
table.add_column("[/] pip install 'weightsmith[bench]' :warning:")
console = plain_console()
console.file = sys.stderr
console.print(table)
with show_progress(quiet=False) as (log, on_progress):
    on_progress(Progress("evaluating [/red] a[b]", 1, 2, "requests"))
    log("[/] done :warning:")
"""


def test_what_is_in_brackets_is_a_name() -> None:
    """rich would take it for markup: leave it out, or end with an error."""
    environment = os.environ | {"TERM": "xterm-256color"}
    shown = _in_a_terminal([sys.executable, "-c", SHOW_NAMES], environment)
    assert "[/] pip install 'weightsmith[bench]' :warning:" in shown and "[/] done :warning:" in shown
    assert "evaluating [/red] a[b]" in shown and "Traceback" not in shown


@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_terminal(no_color: bool, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save_stranger(tmp_path / name, seed, 40, (512, 2048))
    recipe = tmp_path / "recipe.yml"
    entries = "".join(f"  - {{model: {tmp_path / name}, parameters: {{weight: 0.5}}}}\n" for name in "ab")
    recipe.write_text(f"merge_method: linear\nmodels:\n{entries}dtype: float16\n")
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm-256color"}
    shown = _in_a_terminal(
        [sys.executable, "-m", "weightsmith", "merge", str(recipe), str(tmp_path / "out")],
        environment | ({"NO_COLOR": "1"} if no_color else {}),
    )
    assert "merging" in shown and " of 84 MB" in shown
    assert bool(re.search(r"\x1b\[[\d;]*3[0-9][\d;]*m", shown)) != no_color


def _in_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    return shown.decode(errors="replace")
