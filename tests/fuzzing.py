"""Property tests: the same examples every time; with FUZZ=N in the environment (`make properties`) new ones, N times as
many."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("FUZZ", "0"))


def examples(count: int, *, files: bool = False) -> settings:
    """Settings for `count` examples. `files`: every example writes over the same files, in the test's own folder."""
    allowed = [HealthCheck.function_scoped_fixture] if files else []
    return settings(
        max_examples=count * max(1, FACTOR),
        derandomize=not FACTOR,
        database=None,
        deadline=None,
        suppress_health_check=[*allowed, HealthCheck.too_slow] if FACTOR else allowed,
    )
