"""`weightsmith` in forks of one process that has imported what commands need: each then takes no seconds to begin.

    python -m tests.warm_process FOLDER

listens at FOLDER/socket for lines of JSON, {"arguments": [...], "cwd": ..., "stdout": file, "stderr": file}, and answers
with {"code": ...}. FOLDER/bin/weightsmith asks it, for shells.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import NoReturn

from tests.hostile.builders import recipe, write_model

ROOT = Path(__file__).parents[1]


def warm_up(folder: Path) -> None:
    """Modules are imported, kernels loaded, names of tensors compiled."""
    import transformers.models.llama.modeling_llama  # noqa: F401

    import weightsmith

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
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page


class WarmProcess:
    """The other side of this module. `programs`: a folder for PATH."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.environment, self.programs = folder, _environment(), folder / "bin"
        self.programs.mkdir()
        program = self.programs / "weightsmith"
        program.write_text(f"#!{sys.executable} -IS\n{_PROGRAM.replace('SOCKET', repr(str(folder / 'socket')))}")
        program.chmod(0o755)
        command = [sys.executable, "-m", "tests.warm_process", str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "ready\n"
        atexit.register(process.kill)

    @property
    def fits(self) -> bool:
        """Whether a process that begins now would find the same environment."""
        return _environment() == self.environment

    def run(self, arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.programs / "weightsmith", *arguments], cwd=cwd, capture_output=True, text=True, check=False
        )
        return subprocess.CompletedProcess(["weightsmith", *arguments], done.returncode, done.stdout, done.stderr)


_PROGRAM = """
import json, os, socket, sys
me = f"/proc/{os.getpid()}/fd/"
request = {"arguments": sys.argv[1:], "cwd": os.getcwd(), "stdout": me + "1", "stderr": me + "2"}
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect(SOCKET)
    asked.sendall((json.dumps(request) + "\\n").encode())
    sys.exit(json.loads(asked.makefile().readline())["code"])
"""


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}


@cache
def warm_process() -> WarmProcess:
    """One for each process of pytest."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    return WarmProcess(folder)


def _serve(folder: Path) -> NoReturn:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as the command sets it
    warm_up(folder)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
        listening.listen()
        print("ready", flush=True)
        while True:
            asked, _ = listening.accept()
            with asked:
                request = json.loads(asked.makefile().readline())
                child = os.fork()
                if child == 0:
                    listening.close()
                    asked.close()
                    _become(request)
                _, status = os.waitpid(child, 0)
                asked.sendall((json.dumps({"code": os.waitstatus_to_exitcode(status)}) + "\n").encode())


def _become(request: dict) -> NoReturn:
    """Be `weightsmith`, and end as a process ends, but without freeing thousands of modules."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        file = os.open(request[name], os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.argv = ["weightsmith", *request["arguments"]]
    os.chdir(request["cwd"])
    from weightsmith.__main__ import main

    code: object = 0
    try:
        main()
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
