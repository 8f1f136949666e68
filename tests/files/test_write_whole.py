"""Files that are whole or not there, and folders that one process holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weightsmith.files.digests import FileDigests, digest, file_digest
from weightsmith.files.find_path import find_path, path_beside
from weightsmith.files.folder_lock import FolderInUse, folder_lock
from weightsmith.files.write_whole import write_whole, writing_whole


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("before")
    assert write_whole(path, "after é") == path
    assert path.read_bytes() == "after é".encode()
    with pytest.raises(RuntimeError), writing_whole(path) as partial:
        partial.write_text("half")
        assert path.read_text(encoding="utf-8") == "after é"
        raise RuntimeError
    assert os.listdir(tmp_path) == ["result.json"] and path.read_text(encoding="utf-8") == "after é"


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from weightsmith.files.folder_lock import FolderInUse, folder_lock\n"
        "try:\n    folder_lock(Path(sys.argv[1]), owner_file='.lock').__enter__()\n"
        "except FolderInUse as error:\n    print(error.owner)\nelse:\n    print('free')\n"
    )

    def other() -> str:
        command = [sys.executable, "-c", code, str(tmp_path / "out")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with folder_lock(tmp_path / "out", owner_file=".lock"):
        assert other() == str(os.getpid())
        with pytest.raises(FolderInUse), folder_lock(tmp_path / "out"):
            pass
    assert other() == "free"


def test_digests_follow_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    digests = FileDigests(tmp_path / "cache.json")
    first = digests.of(tmp_path / "a")
    assert first == file_digest(tmp_path / "a")
    (tmp_path / "a").write_text("other")
    assert digests.of(tmp_path / "a") != first
    (tmp_path / "cache.json").write_text("damaged")
    assert FileDigests(tmp_path / "cache.json").of(tmp_path / "a") == digests.of(tmp_path / "a")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def test_paths_are_looked_for_here_then_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "beside" / "q.jsonl").touch()
    assert find_path("q.jsonl", tmp_path / "beside") == tmp_path / "beside" / "q.jsonl"
    (tmp_path / "here" / "q.jsonl").touch()
    assert find_path("q.jsonl", tmp_path / "beside") == Path("q.jsonl")
    assert find_path("other", tmp_path / "beside") is None
    assert path_beside("other", tmp_path / "beside") == tmp_path / "beside" / "other"
    assert path_beside("/nowhere/x", tmp_path / "beside") == Path("/nowhere/x")
