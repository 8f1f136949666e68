"""What fuzzing kept, run again: each reader takes it or refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.fuzz.kept import kept_inputs
from tests.hostile.fuzz.readers import READERS, seeds
from weightsmith.errors import WeightsmithError


@pytest.mark.parametrize("reader", READERS)
def test_kept_inputs(reader: str, tmp_path: Path) -> None:
    good = list(seeds(reader))
    for number, content in enumerate(good):
        (tmp_path / f"good-{number}").mkdir()
        READERS[reader](content, tmp_path / f"good-{number}")
    for number, content in enumerate(kept_inputs(reader)):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            READERS[reader](content, folder)
        except WeightsmithError as error:
            assert str(error)
