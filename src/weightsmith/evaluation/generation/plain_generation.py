"""Answers one at a time by transformers' own loop, for models whose state is not keys and values (recurrent ones)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from weightsmith.evaluation.backend import GoesOn, OnAnswers, Sampling
from weightsmith.evaluation.text_tokens import TextTokens


class PlainGeneration:
    """Called as BatchGeneration is."""

    def __init__(self, model: Any, tokens: TextTokens, ends: set[int]) -> None:
        self._model, self._tokens, self._ends = model, tokens, ends

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Sequence[np.ndarray],
        limit: int,
        goes_on: GoesOn,
        sampling: Sampling,
        on_answers: OnAnswers | None,
    ) -> list[str]:
        from transformers import GenerationConfig

        torch.manual_seed(sampling.seed)
        options: dict[str, Any] = {"do_sample": sampling.temperature > 0}
        if sampling.temperature > 0:
            options |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        config = GenerationConfig(max_new_tokens=limit, eos_token_id=sorted(self._ends), pad_token_id=0, **options)
        texts = []
        for question, prompt in enumerate(prompts):
            ids = torch.from_numpy(prompt.astype(np.int64))[None].to(self._model.device)

            def is_finished(
                output_ids: torch.Tensor, scores: Any, question: int = question, begin: int = len(prompt), **_: Any
            ):
                text = self._tokens.decode(output_ids[0, begin:].tolist(), special=True)
                return torch.tensor([not goes_on(question, text)], device=output_ids.device)

            out = self._model.generate(ids, generation_config=config, stopping_criteria=[is_finished])[0, len(prompt) :]
            texts.append(self._tokens.decode([token for token in out.tolist() if token not in self._ends]))
            if on_answers:
                on_answers([(question, texts[-1])])
        return texts
