"""lm-evaluation-harness and `datasets` without their own bars and log lines: progress is ours."""

from __future__ import annotations

import logging
import os
import warnings
from functools import partial

from tqdm import tqdm


def quiet_harness() -> None:
    """Raises EvaluationError where it is not installed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        import datasets
        import lm_eval.api.task
    except ImportError as error:
        from weightsmith.errors import EvaluationError

        raise EvaluationError("benchmarks need `pip install 'weightsmith[bench]'`") from error
    lm_eval.api.task.tqdm = partial(tqdm, disable=True)
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    for name in ("lm_eval", "lm-eval", "datasets", "evaluate", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="(lm_eval|datasets|evaluate).*")
