"""Work in a process of its own, so that Ctrl-C stops it and a crash in native code is one clear message: a module that
gets a job as JSON and reports in lines of JSON on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any


def run_child(module: str, job: Mapping[str, Any], on_line: Callable[[dict[str, Any]], None]) -> tuple[int, str]:
    """Run `python -m module JOB`; `on_line` gets each line of JSON. Returns the exit code and the last line that is
    not JSON."""
    command, last_line = [sys.executable, "-P", "-m", module, json.dumps(job)], ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        try:
            for text in process.stdout:
                if text.startswith("{"):
                    on_line(json.loads(text))
                else:
                    last_line = text.strip() or last_line
            return process.wait(), last_line
        finally:
            process.kill()
