"""What `doctor` finds: here, and in installations that lack something or are broken."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

import pytest

import weightsmith as ws
from tests.conftest import weightsmith_process
from weightsmith.diagnosis.check_extras import check_extras


def test_all_that_the_tests_need_works_here(tmp_path: Path) -> None:
    found = ws.doctor(tmp_path)
    assert not found.problems and all(extra.works for extra in found.extras)
    assert {"gguf", "eval", "bench", "report", "search", "ray", "demo"} <= {extra.name for extra in found.extras}
    assert found.llama_cpp.version == metadata.version("llama-cpp-python") and found.llama_cpp.build
    assert found.disk.free > 0 and found.disk.write_speed > 0 and found.cores > 0
    assert not list(tmp_path.iterdir())


def test_every_extra_of_a_user_is_known() -> None:
    """All that the package offers, but for those of developers."""
    offered = set(metadata.metadata("weightsmith").get_all("Provides-Extra") or ())
    assert {extra.name for extra in check_extras()} - {""} == offered - {"dev", "docs"}


def test_what_is_missing_and_what_is_too_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "optuna":
            raise metadata.PackageNotFoundError(name)
        return {"rich": "1.0", "matplotlib": "3.0"}.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = ws.doctor(tmp_path)
    extras = {extra.name: extra for extra in found.extras}
    assert extras["search"].missing == {"matplotlib": "3.0, which is not >=3.9", "optuna": "not installed"}
    assert extras["search"].install == "pip install --upgrade 'weightsmith[search]'"
    assert not extras[""].works and extras["gguf"].works
    assert any(problem.startswith("rich is 1.0, which is not >=13") for problem in found.problems)
    assert not any("optuna" in problem for problem in found.problems)  # nobody asked for it


def test_a_library_for_another_processor(tmp_path: Path) -> None:
    """A build with instructions that are not there ends the process that loads it."""
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp/__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    done = weightsmith_process(
        "doctor", "--json", cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *_path()])}
    )
    assert done.returncode == 2 and "was built for a processor with other instructions" in done.stderr
    assert json.loads(done.stdout)["llama_cpp"]["build"] == ""


def _path() -> list[str]:
    return [str(Path(ws.__file__).parents[1])]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    done = weightsmith_process("doctor", "--folder", tmp_path / "none")
    assert done.returncode == 2 and "cannot be written: No such file or directory" in done.stderr
    assert "extra" in done.stdout and "Traceback" not in done.stderr
