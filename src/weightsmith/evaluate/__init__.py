"""Scores of models on text and on questions, from safetensors or GGUF weights."""

from typing import Any

from weightsmith.callable_room import make_callable

__all__ = ["Evaluation", "ModelScores", "Score", "evaluate"]


def __getattr__(name: str) -> Any:
    """Loaded on first use: most of this room needs torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from weightsmith.evaluate import score_models

    return getattr(score_models, name)


make_callable(__name__)
