"""`make chaos`: long commands that are killed, run twice at once, meet full disks, swapped inputs and clocks that jump.

Each round draws what happens from a seed, does it to a real process, runs the command again until it is done, and
compares the output with that of a quiet run, byte for byte where it has no times in it. A problem names its round, which
`python -m tests.hostile.chaos ROUNDS --only ROUND` repeats.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from tests.conftest import CONFIG, save_family, save_stranger

_PATIENCE = 180.0  # seconds for one process
_KILLS = 3  # of one command, at most
_PYTHON_STARTS = 0.2  # seconds, until code of ours runs
_SHARES = {"merge": 5, "unify": 4}  # of the rounds; these take a second, others ten
Outcome = dict[str, str]

# A clock that jumps by up to a day each time it is read for the first time in a second.
_JUMPING_CLOCK = """
import random, sys, time
now, random = time.time, random.Random({seed})
offset = [0.0, 0.0]
def jumping():
    if now() - offset[0] > 0.05:
        offset[:] = [now(), random.uniform(-86400, 86400)]
    return now() + offset[1]
time.time, time.time_ns = jumping, lambda: int(jumping() * 1e9)
from weightsmith.commands.app import main
main()
"""


@dataclass(frozen=True)
class Command:
    """`arguments` with OUT where the output's path goes; `again`: how a run that was killed is continued."""

    name: str
    arguments: tuple[str, ...]
    read: Callable[[Path], Outcome]
    again: Callable[[Path], tuple[str, ...]] = lambda out: ()
    disk: bool = True  # whether it is also run on disks that fill up

    def line(self, out: Path) -> list[str]:
        more = self.again(out) if out.exists() else ()
        return [str(out) if part == "OUT" else part for part in (*self.arguments, *more)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _files(out: Path, pattern: str = "**/*") -> Outcome:
    return {
        str(path.relative_to(out)): _digest(path.read_bytes()) for path in sorted(out.glob(pattern)) if path.is_file()
    }


def _exported(out: Path) -> Outcome:
    return _files(out, "*.gguf")


def _evaluated(out: Path) -> Outcome:
    return _files(out, "evaluation.csv") | _files(out, "*/samples_*.jsonl")


def _searched(out: Path) -> Outcome:
    rows = list(csv.DictReader((out / "trials.csv").read_text().splitlines()))
    timeless = [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]
    return _files(out, "best.yml") | {"trials": _digest(json.dumps(timeless).encode())}


def _ablated(out: Path) -> Outcome:
    return _files(out, "ablation.csv")


def _ran(out: Path) -> Outcome:
    return _files(out / "merged") | _files(out / "gguf", "*.gguf") | _evaluated(out / "evaluation")


def build(home: Path) -> list[Command]:
    """The inputs of all commands, and the commands."""
    for seed, name in enumerate(("wide-base", "wide-a", "wide-b", "wide-other")):
        save_stranger(home / name, seed, 16, (512, 1024))
    settings = {key: value for key, value in CONFIG.items() if key not in ("architectures", "model_type")}
    settings |= {"num_hidden_layers": 2, "vocab_size": 384, "max_position_embeddings": 512, "initializer_range": 0.3}
    save_family(home, settings, 0.05)
    from tests.tiny_tokenizer import save_tokenizer

    for name in ("base", "a", "b", "c"):
        save_tokenizer(home / name)
    (home / "q.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{n} and {n} is", "target": f" {2 * n}"}) + "\n" for n in range(24))
    )
    (home / "text.txt").write_text("The licensor grants the rights to reproduce and to prepare derivative works. " * 60)
    entries = [{"model": str(home / f"wide-{n}"), "parameters": {"weight": 0.5, "density": 0.6}} for n in "ab"]
    wide = {"merge_method": "dare_ties", "base_model": str(home / "wide-base"), "models": entries, "dtype": "float16"}
    (home / "wide.yml").write_text(yaml.safe_dump(wide))
    small = [{"model": str(home / n), "parameters": {"weight": 0.5}} for n in "ab"]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(home / "base"), "models": small}
    (home / "small.yml").write_text(yaml.safe_dump(recipe))
    searched = json.loads(json.dumps(recipe))
    searched["models"][0]["parameters"]["weight"] = {"uniform": [0.1, 0.9]}
    objective = {"questions": str(home / "q.jsonl"), "metric": "perplexity"}
    (home / "search.yml").write_text(
        yaml.safe_dump({"recipe": searched, "objective": [objective], "trials": 4, "prune": False})
    )
    stages = {"merge": recipe, "export": ["f16", "q8_0"], "evaluate": {"questions": [str(home / "q.jsonl")]}}
    (home / "pipeline.yml").write_text(yaml.safe_dump(stages))

    def resumed(out: Path) -> tuple[str, ...]:
        return ("--resume",) if (out / "study.db").exists() else ()

    questions = ("--questions", str(home / "q.jsonl"))
    return [
        Command("merge", ("merge", str(home / "wide.yml"), "OUT", "--threads", "2"), _files),
        Command("unify", ("unify", str(home / "wide-a"), "OUT", "--out-shard-size", "4MB"), _files),
        Command("export", ("export", str(home / "a"), "OUT", "--type", "f16", "--type", "q8_0"), _exported),
        Command("evaluate", ("evaluate", str(home / "a"), str(home / "b"), *questions, "--text", str(home / "text.txt"), "-o", "OUT"), _evaluated, disk=False),
        Command("search", ("search", str(home / "search.yml"), "OUT"), _searched, resumed, disk=False),
        Command("ablate", ("ablate", str(home / "small.yml"), "OUT", *questions, "--metric", "perplexity", "--blocks", "2"), _ablated, disk=False),
        Command("run", ("run", str(home / "pipeline.yml"), "OUT"), _ran, disk=False),
    ]  # fmt: skip


class Chaos:
    """The rounds, in a folder of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.commands = build(home)
        self.expected: dict[str, Outcome] = {}
        self.seconds: dict[str, float] = {}
        for command in self.commands:
            for _ in range(2):  # the first one compiles kernels and fills caches
                out = home / f"quiet-{command.name}"
                shutil.rmtree(out, ignore_errors=True)
                began = time.monotonic()
                code, said = self.finish(self.start(command.line(out)))
                assert code == 0, (command.name, said)
                self.seconds[command.name] = time.monotonic() - began
            self.expected[command.name] = command.read(out)

    def start(self, line: Sequence[str], *, clock: int | None = None) -> subprocess.Popen[str]:
        script = ["-m", "weightsmith"] if clock is None else ["-c", _JUMPING_CLOCK.format(seed=clock)]
        command = [sys.executable, *script, *line]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=self.home,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # ignored where a shell runs this in the background
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        try:
            said, _ = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            return -999, f"did not end in {_PATIENCE:.0f} s: {said[-300:]}"
        return process.returncode, said

    def compare(self, command: Command, out: Path) -> str | None:
        """What is wrong with an output that is said to be done."""
        found = command.read(out)
        if found != self.expected[command.name]:
            names = {*found.items()} ^ {*self.expected[command.name].items()}
            return f"other bytes: {sorted({name for name, _ in names})[:4]}"
        left = [path.name for path in out.parent.glob(f".{out.name}*")]
        return f"left {left}" if left else None

    def until_done(self, command: Command, out: Path) -> str | None:
        code, said = self.finish(self.start(command.line(out)))
        return self.compare(command, out) if code == 0 else f"exit {code}: {said[-300:]}"

    def killed(self, command: Command, out: Path, draw: random.Random) -> str | None:
        """Killed up to three times, alone or with its children, then left alone."""
        for _ in range(draw.randint(1, _KILLS)):
            process = self.start(command.line(out))
            time.sleep(draw.uniform(0.05, 1.05) * self.seconds[command.name])
            if draw.random() < 0.5:
                process.kill()
                time.sleep(0.2)
            with_children = psutil.Process(process.pid).is_running() if psutil.pid_exists(process.pid) else False
            if with_children:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        return self.until_done(command, out)

    def interrupted(self, command: Command, out: Path, draw: random.Random) -> str | None:
        """Ctrl-C at some time."""
        process = self.start(command.line(out))
        time.sleep(max(_PYTHON_STARTS, draw.uniform(0.05, 1.05) * self.seconds[command.name]))
        process.send_signal(signal.SIGINT)
        code, said = self.finish(process)
        if code not in (0, 1, 130, -signal.SIGINT) or "Traceback" in said:
            return f"Ctrl-C: exit {code}: {said[-300:]}"
        return self.until_done(command, out)

    def twice(self, command: Command, out: Path, draw: random.Random) -> str | None:
        """The same command two times at once: one does it, the other is refused, or comes later."""
        first = self.start(command.line(out))
        time.sleep(draw.uniform(0, 0.5) * self.seconds[command.name])
        second = self.start(command.line(out))
        results = [self.finish(process) for process in (first, second)]
        for code, said in results:
            if code not in (0, 2) or "Traceback" in said:
                return f"exit {code}: {said[-300:]}"
        if all(code for code, _ in results):
            return f"both refused: {[said[-150:] for _, said in results]}"
        return self.until_done(command, out) if command.name == "search" else self.compare(command, out)

    def full_disk(self, command: Command, out: Path, draw: random.Random) -> str | None:
        """A disk that has room for a part of it; then for all."""
        needed = sum(path.stat().st_size for path in (self.home / f"quiet-{command.name}").rglob("*") if path.is_file())
        disk = out.with_name(f"{out.name}-disk")
        disk.mkdir()
        size = max(1 << 16, int(needed * draw.uniform(0.02, 2.2)))
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], check=False)
        if mounted.returncode:
            return "SKIPPED"
        try:
            code, said = self.finish(self.start(command.line(disk / "out")))
            if code not in (0, 2) or "Traceback" in said:
                return f"exit {code} with {size} bytes: {said[-300:]}"
            if code == 2 and "full" not in said:
                return f"not said to be full with {size} bytes: {said[-300:]}"
            if code == 2 and command.name in ("merge", "unify") and list(disk.iterdir()):
                return f"left {[path.name for path in disk.iterdir()]}"
            subprocess.run(["mount", "-o", f"remount,size={needed * 4 + (64 << 20)}", str(disk)], check=True)
            return self.until_done(command, disk / "out")
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=False)

    def swapped(self, command: Command, out: Path, draw: random.Random) -> str | None:
        """An input becomes another model while it is read: the output is of the first one, or there is none."""
        del command
        inputs = out.with_name(f"{out.name}-inputs")
        inputs.mkdir()
        for name in ("wide-base", "wide-a", "wide-b"):
            shutil.copytree(self.home / name, inputs / name)
        recipe = inputs / "wide.yml"
        recipe.write_text((self.home / "wide.yml").read_text().replace(str(self.home), str(inputs)))
        victim = inputs / draw.choice(["wide-base", "wide-a", "wide-b"]) / "model.safetensors"
        shutil.copyfile(self.home / "wide-other" / "model.safetensors", inputs / "other")
        times = victim.stat()
        os.utime(inputs / "other", ns=(times.st_atime_ns, times.st_mtime_ns))  # only the inode is another one
        process = self.start(["merge", str(recipe), str(out), "--threads", "1"])
        time.sleep(draw.uniform(0.1, 1.0) * self.seconds["merge"])
        if draw.random() < 0.5:
            (inputs / "other").replace(victim)
        else:
            shutil.copyfile(inputs / "other", victim)
        code, said = self.finish(process)
        weights = {
            name: digest
            for name, digest in (_files(out) if out.exists() else {}).items()
            if name.endswith(".safetensors")
        }
        expected = {name: digest for name, digest in self.expected["merge"].items() if name.endswith(".safetensors")}
        if code == 0 and weights != expected:
            late = self.finish(self.start(["merge", str(recipe), str(out.with_name(f"{out.name}-after"))]))
            after = _files(out.with_name(f"{out.name}-after"), "*.safetensors")
            return None if late[0] == 0 and after == weights else "of two models"  # it was swapped before it was opened
        if code == 2 and out.exists():
            return f"refused, and there is an output: {said[-200:]}"
        return None if code in (0, 2) and "Traceback" not in said else f"exit {code}: {said[-300:]}"

    def clock(self, command: Command, out: Path, draw: random.Random) -> str | None:
        """A clock that jumps back and forth by up to a day, in a run that is killed and in the one that goes on."""
        process = self.start(command.line(out), clock=draw.randint(0, 999))
        time.sleep(draw.uniform(0.2, 1.2) * self.seconds[command.name])
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        code, said = self.finish(self.start(command.line(out), clock=draw.randint(0, 999)))
        return self.compare(command, out) if code == 0 else f"exit {code}: {said[-300:]}"

    def ray_worker(self, command: Command, out: Path, draw: random.Random) -> str | None:
        """A worker of Ray is killed; the command does it again, or is refused and then continued."""
        line = [*command.line(out), "--ray", "local"]
        process = self.start(line)
        time.sleep(draw.uniform(3, 12))
        if process.poll() is None:
            workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "ray::" in p.name()]
            if workers:
                draw.choice(workers).kill()
        code, said = self.finish(process)
        if code not in (0, 1, 2) or "Traceback" in said:
            return f"exit {code}: {said[-300:]}"
        if code:
            code, said = self.finish(self.start(line))
        return self.compare(command, out) if code == 0 else f"exit {code}: {said[-300:]}"

    def round(self, number: int) -> tuple[str, str | None]:
        """(what happened to what, what is wrong)."""
        draw = random.Random(number)
        kinds: list[tuple[str, float, Sequence[str]]] = [
            ("killed", 8, [command.name for command in self.commands]),
            ("interrupted", 3, [command.name for command in self.commands]),
            ("twice", 3, [command.name for command in self.commands]),
            ("full_disk", 3, [command.name for command in self.commands if command.disk]),
            ("swapped", 3, ["merge"]),
            ("clock", 2, [command.name for command in self.commands]),
            ("ray_worker", 0.4, ["merge"]),
        ]
        kind, _, names = draw.choices(kinds, [weight for _, weight, _ in kinds])[0]
        (name,) = draw.choices(names, [_SHARES.get(one, 1) for one in names])
        command = next(command for command in self.commands if command.name == name)
        out = self.home / f"round-{number}"
        problem = getattr(self, kind)(command, out, draw)
        for path in self.home.glob(f"*round-{number}*"):
            shutil.rmtree(path, ignore_errors=True)
        return f"{kind.replace('_', ' ')}, {name}", problem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=200)
    parser.add_argument("--only", type=int, help="this round alone")
    options = parser.parse_args()
    counted: Counter[str] = Counter()
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        began = time.monotonic()
        chaos = Chaos(Path(folder))
        print(
            f"quiet runs: {', '.join(f'{name} {seconds:.1f} s' for name, seconds in chaos.seconds.items())}", flush=True
        )
        for number in range(options.rounds) if options.only is None else [options.only]:
            what, problem = chaos.round(number)
            counted[what if problem != "SKIPPED" else f"{what} (skipped: no mount)"] += 1
            if problem and problem != "SKIPPED":
                problems.append(f"round {number}: {what}: {problem}")
                print(problems[-1], flush=True)
    kinds: Counter[str] = Counter()
    for what, count in counted.items():
        kinds[what.partition(",")[0]] += count
    print(f"{sum(counted.values())} rounds in {(time.monotonic() - began) / 60:.0f} min; {len(problems)} problems")
    for what, count in sorted(counted.items()):
        print(f"  {what}: {count}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
