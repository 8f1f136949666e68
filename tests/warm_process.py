"""`weightsmith`, and the modules that it runs as processes of their own, in forks of one process that has imported what
they need: each then takes no seconds to begin.

    python -m tests.warm_process FOLDER

listens at FOLDER/socket for a line of JSON, {"module": ..., "arguments": [...], "cwd": ..., "environment": {...}}, with
the three standard streams. It answers with {"pid": ...}, and with {"code": ...} at the end; who hangs up ends the fork.
FOLDER/bin/weightsmith asks it, for shells; FOLDER/module asks it for a module, or with -c for a script, as Python does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import NoReturn

from tests.hostile.builders import recipe, write_model

ROOT = Path(__file__).parents[1]


def warm_up(folder: Path) -> None:
    """Modules are imported, kernels loaded, names of tensors compiled, the commands with their options built."""
    import conversion.llama  # noqa: F401 - llama.cpp's converter
    import llama_cpp  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401
    import typer.main
    from transformers import AutoTokenizer  # noqa: F401

    import weightsmith

    typer.main.get_command = cache(typer.main.get_command)
    for module in walk_packages(weightsmith.__path__, "weightsmith."):
        if module.name != "weightsmith.__main__":
            import_module(module.name)
    good, other = folder / "good", folder / "other"
    write_model(good, seed=0)
    write_model(other, seed=1)
    weightsmith.inspect([good, other])
    for method in ("task_arithmetic", "ties"):
        (folder / f"{method}.yml").write_text(f"base_model: {good}\n{recipe(other, method=method)}")
        weightsmith.merge(folder / f"{method}.yml", folder / method, threads=1)
    typer.main.get_command(import_module("weightsmith.commands.app").app)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page


def use_warm_modules(command: Callable[[str], list[str]]) -> None:
    """What this process would start as `python -m weightsmith...` is started by `command`."""
    from weightsmith import child_process

    child_process.module_command = command


class WarmProcess:
    """The other side of this module. `programs`: a folder for PATH."""

    def __init__(self, folder: Path) -> None:
        self.environment, self.programs, self._module = _environment(), folder / "bin", folder / "module"
        self.programs.mkdir()
        for program, words in (
            (self.programs / "weightsmith", "['weightsmith', *sys.argv[1:]]"),
            (self._module, "sys.argv[1:]"),
        ):
            asking = _PROGRAM.replace("SOCKET", repr(str(folder / "socket"))).replace("WORDS", words)
            program.write_text(f"#!{sys.executable} -IS\n{asking}")
            program.chmod(0o755)
        command = [sys.executable, "-m", "tests.warm_process", str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "ready\n"
        atexit.register(process.kill)

    def module_command(self, module: str) -> list[str]:
        """The command for a module, or `-c`, which a script follows."""
        return [str(self._module), module]

    @property
    def fits(self) -> bool:
        """Whether a process that begins now would find the same environment."""
        return _environment() == self.environment

    def run(self, arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [self.programs / "weightsmith", *arguments]
        return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


_PROGRAM = """
import json, os, signal, socket, sys
module, *arguments = WORDS
request = {"module": module, "arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect(SOCKET)
    socket.send_fds(asked, [(json.dumps(request) + "\\n").encode()], [0, 1, 2])
    os.close(0)
    answers = asked.makefile()
    pid = json.loads(answers.readline())["pid"]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    code = json.loads(answers.readline())["code"]
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    sys.exit(code)
"""


# Libraries set these when a test imports them (mergekit, lm-eval, ray, scikit-learn): a command would not find them.
_NOT_A_PERSONS = (
    "PYTEST_",
    "TORCHINDUCTOR_",
    "HF_XET_HIGH_PERFORMANCE",
    "RAY_",
    "KMP_",
    "TOKENIZERS_PARALLELISM",
    "HF_HUB_DISABLE_TELEMETRY",
)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(_NOT_A_PERSONS)}


@cache
def warm_process() -> WarmProcess:
    """One for each process of pytest."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    return WarmProcess(folder)


def _serve(folder: Path) -> NoReturn:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as the command sets it
    warm_up(folder)
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as waiting:
        listening.bind(str(folder / "socket"))
        listening.listen()
        waiting.register(listening, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is listening:
                    asked, _ = listening.accept()
                    child, ended = _fork(asked, waiting, folder)
                    waiting.register(ended, selectors.EVENT_READ, (child, asked))
                    waiting.register(asked, selectors.EVENT_READ, (child, None))
                elif key.data[1] is None:  # hung up
                    waiting.unregister(key.fileobj)
                    os.kill(key.data[0], signal.SIGKILL)
                else:
                    child, asked = key.data
                    waiting.unregister(key.fileobj)
                    os.close(key.fd)
                    if asked in waiting.get_map():
                        waiting.unregister(asked)
                    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                    with asked, contextlib.suppress(OSError):
                        asked.sendall((json.dumps({"code": code}) + "\n").encode())


def _fork(asked: socket.socket, waiting: selectors.BaseSelector, folder: Path) -> tuple[int, int]:
    """The process, and what can be read when it has ended."""
    text, streams, _, _ = socket.recv_fds(asked, 1 << 16, 3)
    while not text.endswith(b"\n"):
        text += asked.recv(1 << 16)
    child = os.fork()
    if child == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        for key in list(waiting.get_map().values()):
            key.fileobj.close() if isinstance(key.fileobj, socket.socket) else os.close(key.fd)
        asked.close()
        _become(json.loads(text), folder)
    for stream in streams:
        os.close(stream)
    asked.sendall((json.dumps({"pid": child}) + "\n").encode())
    return child, os.pidfd_open(child)


def _become(request: dict, folder: Path) -> NoReturn:
    """Be the program, and end as a process ends, but without freeing thousands of modules."""
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    module = request["module"]
    sys.argv = [module, *request["arguments"]]
    if module in ("weightsmith", "-c"):
        use_warm_modules(lambda module: [str(folder / "module"), module])
    code: object = 0
    try:
        if module == "weightsmith":
            from weightsmith.__main__ import main

            main()
        elif module == "-c":
            exec(compile(request["arguments"][0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
