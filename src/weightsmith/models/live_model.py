"""A live `transformers` model, filled from a checkpoint in memory: nothing is written to disk, no code is fetched."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from weightsmith.checkpoint.checkpoint import read_tensor
from weightsmith.errors import EvaluationError, shown
from weightsmith.files.inputs.read_input import read_json
from weightsmith.models.configs.without_code import without_code
from weightsmith.models.model import Model

if TYPE_CHECKING:
    import torch

_OWN = ("model_type", "quantization_config")


def load_live_model(model: Model, dtype: torch.dtype) -> Any:
    """The causal model of today's `transformers` class, in evaluation mode. Raises EvaluationError where there is none,
    or where the weights do not fill it."""
    weights = {name: read_tensor(model.checkpoint, name, dtype) for name in model.checkpoint.tensors}
    return fill_model(model.reference, model.config, weights, dtype)


def fill_model(
    reference: str, config_values: dict[str, Any], weights: dict[str, torch.Tensor], dtype: torch.dtype
) -> Any:
    """The same from weights in memory, which become the model's own."""
    config, architecture = causal_class(reference, config_values)
    try:
        filled, loading = architecture.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    except Exception as error:  # whatever the class says against its configuration
        raise EvaluationError(
            f"{reference}: {architecture.__name__} cannot be built from its config.json: {shown(str(error))[1:-1]}"
        ) from error
    if loading["missing_keys"] or loading["mismatched_keys"]:
        missing = sorted(map(str, [*loading["missing_keys"], *loading["mismatched_keys"]]))
        raise EvaluationError(f"{reference}: weights do not fill the {architecture.__name__}: {', '.join(missing[:3])}")
    return filled.eval()


def causal_class(reference: str, config_values: dict[str, Any]) -> tuple[Any, Any]:
    """(configuration, class) of the causal model in today's `transformers`. Raises EvaluationError where there is
    none."""
    try:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise EvaluationError("running safetensors weights needs `pip install 'weightsmith[eval]'`") from error
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns where it is imported, whatever the model
    options = {key: value for key, value in without_code(config_values).items() if key not in _OWN}
    try:
        config = AutoConfig.for_model(config_values["model_type"], **options)
        return config, MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except (KeyError, ValueError, TypeError) as error:
        raise EvaluationError(
            f"{reference}: the installed transformers knows no causal model {config_values.get('model_type')!r}"
        ) from error


def end_tokens(model: Model) -> set[int]:
    """Token ids that end a generation, from config.json and generation_config.json."""
    tokens: set[int] = set()
    configs = [model.config]
    if model.home.is_dir() and (model.home / "generation_config.json").exists():
        configs.append(read_json(model.home / "generation_config.json"))
    for config in configs:
        value = config.get("eos_token_id")
        tokens |= set(value) if isinstance(value, list) else {value} if value is not None else set()
    return tokens
