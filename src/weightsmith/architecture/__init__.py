"""Models seen through one naming: where each canonical tensor lies in a source, and the model's configuration."""

from weightsmith.architecture.open_model import Model, in_layout, open_model

__all__ = ["Model", "in_layout", "open_model"]
