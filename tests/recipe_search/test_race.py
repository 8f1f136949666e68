"""A candidate is stopped only where it is behind by more than chance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from weightsmith.recipe_search.trials.race import LEAST, behind, stages

SHARE: Any = SimpleNamespace(weight=1.0, higher_is_better=True)
NATS: Any = SimpleNamespace(weight=1.0, higher_is_better=False)


def answers(values: Any, size: float = 1.0) -> dict[int, tuple[float, float]]:
    return {number: (float(value), size) for number, value in enumerate(values)}


def test_stages_ask_enough_and_end_with_all() -> None:
    assert stages([100, 20]) == [[25, 5], [50, 10], [100, 20]]
    assert stages([40]) == [[30], [40]]
    assert stages([10, 4]) == [[10, 4]]
    for counts in ([7], [31, 1], [400, 3]):
        first = stages(counts)[0]
        assert sum(first) >= min(LEAST, sum(counts)) and stages(counts)[-1] == counts


def test_clearly_behind() -> None:
    best, worse = answers([1] * 40), answers([0] * 30 + [1] * 10)
    assert behind([SHARE], [worse], [best])
    assert not behind([SHARE], [best], [worse])
    assert not behind([SHARE], [answers([0] * 29)], [best])  # too few to say


def test_equal_ones_go_on() -> None:
    """Of candidates that are as good as the best, few are stopped: that is what two standard errors are for."""
    random, stopped = np.random.default_rng(0), 0
    for _ in range(400):
        ours, best = (answers(random.random(60) < 0.7) for _ in range(2))
        stopped += behind([SHARE], [ours], [best])
    assert stopped < 400 * 0.06


def test_nats_are_to_become_few() -> None:
    random = np.random.default_rng(0)
    best = answers(100 + random.normal(size=40), 50)
    worse = answers(np.array([a for a, _ in best.values()]) + 5 + random.normal(size=40), 50)
    assert behind([NATS], [worse], [best]) and not behind([NATS], [best], [worse])
