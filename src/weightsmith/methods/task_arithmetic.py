"""Base plus a weighted sum of task vectors."""

import torch

from weightsmith.methods.method import Method
from weightsmith.methods.task_vectors import NEARLY_ZERO, task_vector_parameters


class TaskArithmetic(Method):
    """https://arxiv.org/abs/2212.04089. out = base + lambda * sum(w_i (x_i - base)). `density` does nothing here,
    as in mergekit."""

    name = "task_arithmetic"
    title = "Task arithmetic"
    paper = "https://arxiv.org/abs/2212.04089"
    parameters = task_vector_parameters(normalize=False)
    needs_base = True

    def combine(self, blocks, settings, statistics):
        base = blocks[settings.base_index]
        mixed, total = torch.zeros_like(base), 0.0
        for i in settings.others:
            weight = settings.per_input[i]["weight"]
            mixed.add_((blocks[i] - base).mul_(weight))
            total += weight
        if settings.shared["normalize"]:
            mixed.div_(total if abs(total) >= NEARLY_ZERO else 1.0)
        return mixed.mul_(settings.shared["lambda"]).add_(base)
