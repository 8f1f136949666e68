"""How well an exported file keeps what the source weights say. Light to import; `check.py`, which measures it, needs
torch."""

from __future__ import annotations

from dataclasses import dataclass

CHECKS = ("fast", "full", "none")


@dataclass(frozen=True)
class Fidelity:
    """How close a file is to the weights it was made from, over `tokens` tokens of a text: the mean Kullback-Leibler
    divergence of the next-token distributions, in nats, and the share of places where the most likely token is the
    same; `deviation`: how far logits are from the source's, as a share of how far those are from their mean (the median
    over places, as a router's rare other choice is no fault of the file)."""

    tokens: int
    divergence: float
    same_top: float
    deviation: float = 0.0


def describe_fidelity(fidelity: Fidelity | str) -> str:
    """What `check_file` found, in one line."""
    if isinstance(fidelity, str):
        return f"tokens match the model's own; distributions not compared: {fidelity}"
    return (
        f"tokens match the model's own; the most likely next token at {fidelity.same_top:.1%} of {fidelity.tokens} "
        f"places; KL divergence {fidelity.divergence:.2g} nats"
    )
