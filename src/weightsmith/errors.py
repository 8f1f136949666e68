"""The exceptions a person can meet. Each message names the file, tensor or key, what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

_SHOWN = 160  # characters of what a file claims
_LONGEST_NAME = 500  # characters of a tensor's name: those of real models have at most 150


def shown(value: object) -> str:
    """What a file holds, as a message shows it: control characters escaped, and cut where it is long."""
    text = repr(value) if isinstance(value, str) else repr(value)[: 4 * _SHOWN]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: 4 * _SHOWN])
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def is_plain_name(name: str) -> bool:
    """Whether a name is one that a person can read: of some length, and without control characters."""
    return len(name) <= _LONGEST_NAME and name.isprintable()


class WeightsmithError(Exception):
    """Bad input or usage; the command line prints the message alone and exits with 2.

    `path`: the file or folder that the message is about, `line`: a line of it, from 1; None where there is none."""

    def __init__(self, message: str, *, path: Path | str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.path = Path(path) if path is not None else None
        self.line = line


class RecipeError(WeightsmithError):
    """A recipe or pipeline file that cannot be used; the message names file and line."""


class CheckpointError(WeightsmithError):
    """A model on disk that cannot be read: absent, cut short, malformed, of an unknown kind."""


class PlanError(WeightsmithError):
    """Inputs that are sound one by one and do not fit together."""


class OutputError(WeightsmithError):
    """The output cannot be written: folder not empty, disk full, no permission."""


class MergeError(WeightsmithError):
    """Weights that cannot be merged: NaN, infinities, results that do not fit the output's dtype."""


class ProcessKilledError(MergeError):
    """The system killed a process of a merge; what it had finished is kept for the next run."""


class ExportError(WeightsmithError):
    """GGUF conversion or quantization cannot be done for this model or type."""


class EvaluationError(WeightsmithError):
    """Evaluation data or models that cannot be scored."""


class SearchError(WeightsmithError):
    """A search that cannot be begun or continued: objectives, storage, workers, no candidate that can be scored."""


class ReportError(WeightsmithError):
    """The report cannot be drawn."""
