"""Which merge methods to try first, from how fine-tunes moved."""

from __future__ import annotations

from dataclasses import dataclass

from weightsmith.inspection.movement import Movement

_SPARSE = 0.2  # share of elements: reinforcement learning changes fewer, other training and adapters change nearly all
_SAME_WAY, _MEET, _AGAINST = 0.3, 0.03, -0.1  # cosines
_UNEVEN = 3.0  # times longer


@dataclass(frozen=True)
class Suggestion:
    """`methods`: to try first, in this order; `parameters`: as a recipe has them; `why`: what was measured, and where
    that is known from."""

    methods: tuple[str, ...]
    parameters: str
    why: str

    def __str__(self) -> str:
        return f"to try first: {', '.join(self.methods)} ({self.parameters}): {self.why}"


def suggest(movement: Movement) -> Suggestion | None:
    """None for fewer than two fine-tunes that moved. It is a rule of thumb: an evaluation decides."""
    cosines = [pair.cosine for pair in movement.pairs if pair.cosine is not None]
    moved = [length for length in movement.whole if length]
    if len(moved) < 2:
        return None
    if max(movement.changed) <= _SPARSE:
        return Suggestion(
            ("ram", "task_arithmetic"),
            "weight 1",
            f"each changed few elements, {max(movement.changed):.1%} at most, as reinforcement learning does; a mean "
            "would shrink what one model alone has learned (arXiv:2601.13572)",
        )
    uneven = (
        f"; one moved {max(moved) / min(moved):.1f} times as far as another: give it a smaller weight"
        if max(moved) > _UNEVEN * min(moved)
        else ""
    )
    shown = f"cosines of {min(cosines):+.2f} to {max(cosines):+.2f}" if cosines else "no element in common"
    if cosines and min(cosines) < _AGAINST:
        return Suggestion(
            ("ties", "task_arithmetic"),
            "search weight and density",
            f"some pull against each other ({shown}): a sum cancels there, and one side will lose; elected signs keep "
            f"one of them whole (arXiv:2306.01708){uneven}",
        )
    if cosines and max(cosines) > _SAME_WAY:
        return Suggestion(
            ("task_arithmetic", "svc"),
            "search weight, below 1",
            f"they pull the same way ({shown}): a sum counts what they share several times; of six methods plain task "
            f"arithmetic alone gained reliably on public fine-tunes (arXiv:2511.21437){uneven}",
        )
    if cosines and max(cosines) > _MEET:
        return Suggestion(
            ("linear", "ties", "svc"),
            "weights that sum to 1; or regmean, with a little text of each",
            f"some have a part in common ({shown}), as skills with the same questions and other answers have: a sum "
            f"counts that part several times, and one side is lost (docs/method-evidence.md){uneven}",
        )
    return Suggestion(
        ("tsv_m", "task_arithmetic", "swudi"),
        "task_arithmetic: weight 1, or search it",
        f"they hardly meet ({shown}): adding keeps each whole, a mean shrinks it to 1/{len(moved)}; tsv_m takes out "
        f"what gets in the way, and has no weight to be found (docs/method-evidence.md){uneven}",
    )
