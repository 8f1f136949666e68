"""Work in a process of its own, so that Ctrl-C stops it and a crash in native code is one clear message: a module that is given an order
as JSON and tells of its work in lines of JSON on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any


def run_child(module: str, order: Mapping[str, Any], hear: Callable[[dict[str, Any]], None]) -> tuple[int, str]:
    """Run `python -m module ORDER`; `hear` gets each line of JSON. Returns the exit code and the last other thing that was said."""
    command, said = [sys.executable, "-P", "-m", module, json.dumps(order)], ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        try:
            for text in process.stdout:
                if text.startswith("{"):
                    hear(json.loads(text))
                else:
                    said = text.strip() or said
            return process.wait(), said
        finally:
            process.kill()
