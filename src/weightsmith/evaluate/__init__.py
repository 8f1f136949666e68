"""Scores of models on text and on questions, from safetensors or GGUF weights."""

from weightsmith.evaluate.evaluate import Evaluation, ModelScores, Score, evaluate

__all__ = ["Evaluation", "ModelScores", "Score", "evaluate"]
