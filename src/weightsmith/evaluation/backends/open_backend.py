"""Which backend runs a model: llama.cpp a single GGUF file, transformers everything else."""

from __future__ import annotations

from collections.abc import Callable

import torch

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_backend import LlamaCppBackend
from weightsmith.evaluation.backends.transformers.transformers_backend import TransformersBackend
from weightsmith.evaluation.backends.transformers.transformers_tokens import TransformersTokens
from weightsmith.machine import available_cores
from weightsmith.models.model import Model


def runs_in_llama_cpp(model: Model) -> bool:
    """A GGUF file as it is; with an adapter it becomes tensors, which transformers runs."""
    return model.is_gguf and len(model.files) == 1


def check_tokenizer(model: Model, *, chat: bool) -> None:
    """What can be known before weights are loaded. Raises EvaluationError where there is no tokenizer, or, with `chat`,
    no template."""
    if runs_in_llama_cpp(model):
        template = GGUFFile(model.home).metadata.get("tokenizer.chat_template")
    else:
        template = TransformersTokens(model.home).template
    if chat and not template:
        raise EvaluationError(f"{model.reference}: has no chat template; evaluate without --chat")


def open_backend(
    model: Model,
    *,
    precision: str = "float32",
    memory: int | None = None,
    threads: int | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Backend:
    """`precision`: what transformers computes in, llama.cpp has its own; `memory`: bytes in all; `threads`: by default
    one per core that this process may use. Raises EvaluationError."""
    threads = threads or available_cores()
    if runs_in_llama_cpp(model):
        return LlamaCppBackend(model.home, threads, memory, log)
    torch.set_num_threads(threads)
    return TransformersBackend(model, precision=precision, memory=memory, log=log)
