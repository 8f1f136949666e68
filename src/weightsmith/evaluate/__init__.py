"""Scores of models on text and on questions, from safetensors or GGUF weights."""

from weightsmith.callable_room import make_callable
from weightsmith.evaluate.score_models import Evaluation, ModelScores, Score, evaluate

__all__ = ["Evaluation", "ModelScores", "Score", "evaluate"]

make_callable(__name__)
