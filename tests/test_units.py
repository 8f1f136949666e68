"""Sizes as people write them, and as mergekit does."""

from __future__ import annotations

import pytest

from weightsmith.errors import WeightsmithError
from weightsmith.units import parse_shard_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("5B", 5 * 10**9), ("500M", 5 * 10**8), ("20k", 20_000), ("5GB", 5 * 10**9), ("2.5 GB", 25 * 10**8), ("77", 77)],
)
def test_shard_sizes_are_those_of_mergekit(text: str, size: int) -> None:
    """`B` is a billion there (`mergekit.common.parse_kmb`)."""
    assert parse_shard_size(text) == size


def test_elsewhere_b_is_a_byte() -> None:
    assert parse_size("512B", "--memory") == 512


@pytest.mark.parametrize("text", ["", "B", "5X", "-1GB", "0", "GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(WeightsmithError, match="not a size"):
        parse_shard_size(text)
