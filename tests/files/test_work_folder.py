"""Folders that a command fills file by file: held, and as they were where the command is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weightsmith.errors import EvaluationError, OutputError
from weightsmith.files.find_path import is_file_name
from weightsmith.files.folder_lock import FolderInUse, file_lock
from weightsmith.files.output_folder import check_output
from weightsmith.files.work_folder import work_folder


def fill(folder: Path, *, worth: bool) -> None:
    with work_folder(folder, is_worth_keeping=lambda: worth):
        (folder / "answers").write_text("1")
        (folder / "more").mkdir()
        raise EvaluationError("no")


def test_a_refusal_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError):
        fill(tmp_path / "a" / "b", worth=False)
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError):
        fill(tmp_path / "empty", worth=False)
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_results_and_what_was_there_stay(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError):
        fill(tmp_path / "kept", worth=True)
    assert (tmp_path / "kept" / "answers").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(EvaluationError):
        fill(tmp_path / "full", worth=False)
    assert {path.name for path in (tmp_path / "full").iterdir()} >= {"mine.txt", "answers"}


def test_one_command_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code = f"""
from pathlib import Path
from weightsmith.files.output_folder import check_output
from weightsmith.files.work_folder import work_folder
with work_folder(Path({str(folder)!r}), is_worth_keeping=lambda: True):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=rf"another weightsmith command \(process {other.pid}\) is writing there"):
            fill(folder, worth=False)
        other.kill()
    with work_folder(folder, is_worth_keeping=lambda: True):
        assert (folder / ".lock").read_text() == str(os.getpid())
    assert not (folder / ".lock").exists()


def test_what_a_killed_command_left_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").write_text("123")
    check_output(tmp_path / "out", force=False, inputs=[])
    with pytest.raises(EvaluationError):
        fill(tmp_path / "out", worth=False)
    assert not list((tmp_path / "out").iterdir())


def test_a_file_is_held(tmp_path: Path) -> None:
    with file_lock(tmp_path / "x"), pytest.raises(FolderInUse), file_lock(tmp_path / "x"):
        pass
    with file_lock(tmp_path / "x"):
        pass


def test_names_of_files() -> None:
    for name in ("model.safetensors", "a b", "größe.gguf", "..x"):
        assert is_file_name(name)
    for name in ("", ".", "..", "/etc/passwd", "a/b", "a\\b", "a\nb", "\x1b[2J", "a\0", "x" * 1000):
        assert not is_file_name(name)
