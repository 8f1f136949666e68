"""Which backend runs a model: llama.cpp a single GGUF file, transformers everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_backend import LlamaCppBackend
from weightsmith.evaluation.backends.transformers.transformers_tokens import TransformersTokens
from weightsmith.machine import available_cores, device_names
from weightsmith.models.model import Model
from weightsmith.tokenizer.untrusted.chat_template import chat_text
from weightsmith.tokenizer.untrusted.try_tokenizer import try_tokenizer


def runs_in_llama_cpp(model: Model) -> bool:
    """A GGUF file as it is; with an adapter it becomes tensors, which transformers runs."""
    return model.is_gguf and len(model.files) == 1


def check_usable(model: Model, *, chat: bool) -> None:
    """What can be known before weights are loaded. Raises CheckpointError where the tokenizer cannot be used,
    EvaluationError where there is none, or, with `chat`, no template, or one that cannot be rendered."""
    if runs_in_llama_cpp(model):
        template = GGUFFile(model.home).metadata.get("tokenizer.chat_template")
    else:
        try_tokenizer(model.home)
        template = TransformersTokens(model.home).template
    if not chat:
        return
    if not template:
        raise EvaluationError(f"{model.reference}: has no chat template; evaluate without --chat")
    try:
        chat_text(template, [{"role": "user", "content": "Hello"}])
    except EvaluationError as error:
        raise EvaluationError(f"{model.reference}: {error}; evaluate without --chat") from error


def open_backend(
    model: Model,
    *,
    precision: str = "float32",
    memory: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    log: Callable[[str], None] = lambda text: None,
) -> Backend:
    """`precision`: what transformers computes in, llama.cpp has its own; `memory`: bytes in all; `threads`: by default
    one per core that this process may use; `device`: where transformers computes, and llama.cpp if it can. Raises
    EvaluationError."""
    threads = threads or available_cores()
    if runs_in_llama_cpp(model):
        return LlamaCppBackend(model.home, threads, memory, log, offload=not device.startswith("cpu"))
    import torch

    torch.set_num_threads(threads)
    return transformers_backend(model, precision=precision, memory=memory, device=device, log=log)


def transformers_backend(
    model: Model,
    *,
    precision: str,
    memory: int | None,
    device: str,
    log: Callable[[str], None],
    load: Callable[[], Any] | None = None,
) -> Backend:
    """As `TransformersBackend`; of several devices, `cuda:0,cuda:1`, each gets the model and a part of what is asked.
    `memory`: bytes on each."""
    from weightsmith.evaluation.backends.transformers.several_devices import LoadedOnce, SeveralDevices
    from weightsmith.evaluation.backends.transformers.transformers_backend import PRECISIONS, TransformersBackend
    from weightsmith.models.live_model import load_live_model

    devices = device_names(device)
    if len(devices) > 1:
        load = LoadedOnce(load or (lambda: load_live_model(model, PRECISIONS[precision])), len(devices))
    backends = [
        TransformersBackend(model, precision=precision, memory=memory, device=name, log=log, load=load)
        for name in devices
    ]
    return backends[0] if len(backends) == 1 else SeveralDevices(backends)
