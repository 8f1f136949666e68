"""One pass of lm-evaluation-harness over loaded tasks, repeatable: every random stream is set anew."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from weightsmith.evaluation.harness.harness_model import HarnessModel
from weightsmith.evaluation.harness.suite_tasks import FEWSHOT_SEED, SuiteTasks


def run_harness(
    model: HarnessModel,
    tasks: SuiteTasks,
    *,
    samples: dict[str, list[int]] | None = None,
    limit: int | None = None,
    seed: int = FEWSHOT_SEED,
    chat: bool = False,
    system: str | None = None,
    multiturn: bool = False,
) -> dict[str, Any]:
    """lm-eval's own results, with each sample; `samples`: numbers of the questions of each task, `limit`: or the first
    ones."""
    from lm_eval.evaluator import evaluate as ask

    random.seed(0)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for task in tasks.tasks.values():
        task.set_fewshot_seed(seed=seed)
    return ask(  # type: ignore[return-value]
        model,
        {"tasks": tasks.tasks, "groups": tasks.groups, "group_map": {}},
        limit=limit,
        samples=samples,
        bootstrap_iters=1000,
        log_samples=True,
        apply_chat_template=chat,
        system_instruction=system,
        fewshot_as_multiturn=chat and multiturn,
    )
