"""A live `transformers` model, filled from a checkpoint in memory: nothing is written to disk, no code is fetched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from weightsmith.architecture import Model
from weightsmith.checkpoint.gguf_file import GGUFFile
from weightsmith.checkpoint.tensor import read_tensor
from weightsmith.errors import EvaluationError
from weightsmith.evaluate.backend import Live, common_prefix
from weightsmith.tokenizer.chat import chat_prompt
from weightsmith.tokenizer.gguf_tokenizer import tokenizer_from_gguf

BATCH = 64


class TransformersBackend:
    name = "transformers"

    def __init__(self, model: Model) -> None:
        self._model = _build(model)
        self._tokenizer = _tokenizer(model.home)
        self._ends = _end_tokens(model) | {self._tokenizer.eos_token_id}

    def encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_question(self, prompt: str) -> list[int]:
        tokenizer = self._tokenizer
        if not tokenizer.chat_template:
            return tokenizer(prompt)["input_ids"]
        bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
        return self.encode(chat_prompt(tokenizer.chat_template, prompt, bos=bos, eos=eos))

    @torch.inference_mode()
    def negative_log_likelihood(self, tokens: Sequence[int]) -> float:
        ids = torch.tensor([list(tokens)])
        logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()

    def generate(self, prompts: Sequence[Sequence[int]], limit: int, live: Live) -> list[str]:
        texts = [""] * len(prompts)
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(by_length), BATCH):
            self._generate_batch(by_length[start : start + BATCH], prompts, limit, live, texts)
        return texts

    @torch.inference_mode()
    def _generate_batch(
        self, chosen: list[int], prompts: Sequence[Sequence[int]], limit: int, live: Live, texts: list[str]
    ) -> None:
        """Left-padded; the prefix all prompts share is computed once; finished answers leave the batch."""
        from transformers import DynamicCache

        prefix = common_prefix([prompts[i] for i in chosen])
        cache: Any = DynamicCache(config=self._model.config)
        if prefix:
            self._model(
                input_ids=torch.tensor([list(prompts[chosen[0]][:prefix])]), past_key_values=cache, logits_to_keep=1
            )
            cache.batch_repeat_interleave(len(chosen))
        rest = [list(prompts[i][prefix:]) for i in chosen]
        width = max(len(r) for r in rest)
        ids = torch.tensor([[0] * (width - len(r)) + r for r in rest])
        seen = torch.tensor([[1] * prefix + [0] * (width - len(r)) + [1] * len(r) for r in rest])
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, prefix:]
        alive, answers = list(chosen), {i: [] for i in chosen}
        for _ in range(limit):
            logits = self._model(
                input_ids=ids, attention_mask=seen, position_ids=positions, past_key_values=cache, logits_to_keep=1
            ).logits[:, -1]
            following = logits.argmax(-1)
            keep = []
            for row, token in enumerate(following.tolist()):
                question = alive[row]
                if token in self._ends:
                    continue
                answers[question].append(token)
                texts[question] = self._tokenizer.decode(answers[question])
                if live(question, texts[question]):
                    keep.append(row)
            if not keep:
                break
            if len(keep) < len(alive):
                index = torch.tensor(keep)
                alive = [alive[row] for row in keep]
                cache.batch_select_indices(index)
                following, seen, positions = following[index], seen[index], positions[index]
            ids = following[:, None]
            positions = positions[:, -1:] + 1
            seen = torch.cat([seen, torch.ones_like(ids)], 1)


def _build(model: Model) -> Any:
    try:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
        from transformers.utils import logging
    except ImportError as error:
        raise EvaluationError("evaluating safetensors weights needs `pip install 'weightsmith[eval]'`") from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    settings = {k: v for k, v in model.config.items() if k not in ("model_type", "auto_map", "quantization_config")}
    try:
        config = AutoConfig.for_model(model.config["model_type"], **settings)
        architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except (KeyError, ValueError) as error:
        raise EvaluationError(
            f"{model.reference}: the installed transformers knows no causal model {model.config.get('model_type')!r}"
        ) from error
    weights = {name: read_tensor(model.checkpoint, name, torch.float32) for name in model.checkpoint.tensors}
    live, loading = architecture.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True
    )
    if loading["missing_keys"] or loading["mismatched_keys"]:
        missing = sorted(map(str, [*loading["missing_keys"], *loading["mismatched_keys"]]))
        raise EvaluationError(
            f"{model.reference}: weights do not fill the {architecture.__name__}: {', '.join(missing[:3])}"
        )
    return live.eval()


@lru_cache(maxsize=4)
def _tokenizer(home: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if home.is_file():
        file = GGUFFile(home)
        rebuilt, config = tokenizer_from_gguf(file)
        del config["tokenizer_class"]
        template = file.metadata.get("tokenizer.chat_template")
        return PreTrainedTokenizerFast(tokenizer_object=rebuilt, chat_template=template, **config)
    try:
        return AutoTokenizer.from_pretrained(str(home), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{home}: its tokenizer cannot be loaded: {error}") from error


def _end_tokens(model: Model) -> set[int]:
    found: set[int] = set()
    settings = [model.config]
    if model.home.is_dir() and (model.home / "generation_config.json").exists():
        settings.append(json.loads((model.home / "generation_config.json").read_text(encoding="utf-8")))
    for setting in settings:
        value = setting.get("eos_token_id")
        found |= set(value) if isinstance(value, list) else {value} if value is not None else set()
    return found
