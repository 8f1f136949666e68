"""Work in a process of its own, where a crash of native code, a lack of memory or a program without end does not reach
the one that asks.

A child is a module of ours that talks in lines of JSON: `run_child` gives it one job, a `ChildProcess` answers many
requests. Ctrl-C reaches the parent, which ends its children.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

Request = Mapping[str, Any]  # plain JSON
_FOLDERS = re.compile(r"^/\S*/(?=[^/\s]+:\d+:)")  # where a library was compiled
_CUT = 300  # characters of a last line that are shown


def run_child(module: str, job: Request, on_line: Callable[[dict[str, Any]], None]) -> tuple[int, str]:
    """Run `python -m module JOB`; `on_line` gets each line of JSON. Returns the exit code and the last line that is
    not JSON."""
    command, last_line = [*module_command(module), json.dumps(job)], ""
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


class ChildDied(Exception):
    """It ended before it answered; the text says how, and what it said last."""


class ChildTookTooLong(ChildDied):
    """It had no answer after the time that it was given, and was ended."""


class ChildProcess:
    """`python -m module`, which calls `serve_requests`. It ends when this object is closed or its parent ends."""

    def __init__(self, module: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            module_command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},  # a debugger would be asked for one
        )
        self._lock = threading.Lock()

    def ask(self, request: Request, *, seconds: float | None = None) -> tuple[dict[str, Any], bytes]:
        """The answer, and the bytes that came with it. Raises ChildDied, and ChildTookTooLong after `seconds`."""
        with self._lock:
            late = threading.Event()
            timer = threading.Timer(seconds, self._end, [late]) if seconds else None
            try:
                if timer:
                    timer.start()
                self._send(request)
                return self._receive()
            except (EOFError, OSError, ValueError) as error:
                if late.is_set():
                    raise ChildTookTooLong(f"it took more than {seconds:g} seconds") from error
                raise ChildDied(self._how_it_ended()) from error
            except BaseException:  # Ctrl-C: what it would answer next belongs to this request
                self._process.kill()
                raise
            finally:
                if timer:
                    timer.cancel()

    def tell(self, request: Request) -> None:
        """A request without an answer. That the child has ended is seen when it is next asked."""
        with self._lock:
            try:
                self._send(request)
            except (OSError, ValueError):
                self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _send(self, request: Request) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer = json.loads(line)
        size = answer.pop("bytes", 0)
        content = self._process.stdout.read(size) if size else b""
        if len(content) < size:
            raise EOFError
        return answer, content

    def _end(self, late: threading.Event) -> None:
        late.set()
        self._process.kill()

    def _how_it_ended(self) -> str:
        self._process.kill()
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        said = next((line for line in lines if "ASSERT" in line), lines[-1] if lines else "")
        said = _FOLDERS.sub("", said)
        said = f": {said[:_CUT]}" if said else ""
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"it was ended by {name}{said or ', most likely because memory ran out' * (name == 'SIGKILL')}"
        return f"it ended with {code}{said}"


def serve_requests(answer: Callable[[dict[str, Any]], tuple[Request, bytes] | None]) -> None:
    """The loop of a child: `answer` each request from standard input on standard output, until the parent is gone.
    What a library prints goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        reply = answer(json.loads(line))
        if reply is None:
            continue
        content = reply[1]
        try:
            replies.write(json.dumps({**reply[0], **({"bytes": len(content)} if content else {})}).encode() + b"\n")
            replies.write(content)
            replies.flush()
        except BrokenPipeError:  # who asked is gone
            os._exit(1)


def module_command(module: str) -> list[str]:
    """The command that runs a module of ours, and none that lies in the working folder."""
    return [sys.executable, "-P", "-m", module]
