"""The wheel in an environment that has what it declares and nothing else: the core does its work from it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.hostile.builders import gguf, recipe, write_model

PROJECT = Path(__file__).parents[2]


def needed(name: str, extras: frozenset[str] = frozenset()) -> set[tuple[str, frozenset[str]]]:
    """The distributions that one asks for, and those that they ask for, with the extras that they are asked for with."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [(name, extras)]
    while waiting:
        one, wanted = waiting.pop()
        if (one, wanted) in found:
            continue
        found.add((one, wanted))
        for line in metadata.requires(one) or ():
            requirement = Requirement(line)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", *wanted)
            ):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


def link(name: str, site_packages: Path) -> None:
    """What the distribution installed beside its metadata, as links."""
    distribution = metadata.distribution(name)
    for part in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
        target = site_packages / part
        if not target.exists():
            target.symlink_to(Path(str(distribution.locate_file(part))))


def test_the_core_runs_from_the_wheel(tmp_path: Path) -> None:
    build = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    wheel = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site_packages = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    for name, _ in needed("weightsmith"):
        if name.lower() != "weightsmith":
            link(name, site_packages)
    assert not (site_packages / "transformers").exists() and not (site_packages / "scipy").exists()
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(tmp_path / wheel)], check=True, capture_output=True)

    for seed, name in enumerate(("good", "other")):
        write_model(tmp_path / name, seed)
    (tmp_path / "x.gguf").write_bytes(gguf())
    (tmp_path / "r.yml").write_text(recipe("good", "other"))
    (tmp_path / "g.yml").write_text(recipe("good", "x.gguf"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    for command in (
        ("--version",),
        ("inspect", "good", "other"),
        ("merge", "r.yml", "merged"),
        ("verify", "merged"),
        ("merge", "g.yml", "with-gguf", "-q"),
        ("unify", "merged", "unified", "-q"),
        ("evaluate", "--help"),
    ):
        done = subprocess.run(
            [str(python.with_name("weightsmith")), *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
    import weightsmith

    weightsmith.merge(tmp_path / "r.yml", tmp_path / "here")
    assert (tmp_path / "here/model.safetensors").read_bytes() == (tmp_path / "merged/model.safetensors").read_bytes()
    where = [str(python), "-c", "import weightsmith; print(weightsmith.__file__)"]
    assert str(tmp_path) in subprocess.run(where, env=environment, capture_output=True, text=True, check=True).stdout
