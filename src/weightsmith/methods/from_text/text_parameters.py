"""The parameters of methods that read text."""

from __future__ import annotations

from weightsmith.methods.method import Parameter

RANDOM = "random"  # instead of a file of text

TEXT = Parameter(
    "text",
    str,
    "non_base",
    "a file of text (UTF-8) of the kind that this model is good at, or `random`: tokens drawn at random",
    of_whole_model=True,
)


def text_parameters(samples: int, context: int) -> tuple[Parameter, ...]:
    """Which text, and how much of it."""
    return (
        TEXT,
        Parameter(
            "samples",
            int,
            "shared",
            "how many windows of the text are read, spread evenly over it",
            default=samples,
            at_least=1,
            of_whole_model=True,
        ),
        Parameter("context", int, "shared", "tokens in a window", default=context, at_least=2, of_whole_model=True),
    )
