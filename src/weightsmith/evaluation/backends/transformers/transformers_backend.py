"""A live `transformers` model as the evaluation loop sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import GREEDY, GoesOn, OnAnswers, Sampling
from weightsmith.evaluation.backends.precision_on import precision_on
from weightsmith.evaluation.backends.transformers.bfloat16_attention import use_bfloat16_attention
from weightsmith.evaluation.backends.transformers.memory_plan import MemoryPlan, plan_memory
from weightsmith.evaluation.backends.transformers.transformers_tokens import TransformersTokens
from weightsmith.evaluation.backends.transformers.transformers_tree import TransformersTree
from weightsmith.evaluation.generation.batch_generation import BatchGeneration
from weightsmith.evaluation.generation.fixed_steps import FixedSteps
from weightsmith.evaluation.generation.growing_steps import GrowingSteps
from weightsmith.evaluation.generation.plain_generation import PlainGeneration
from weightsmith.evaluation.request import OnScores, Request, Score
from weightsmith.evaluation.scoring.plain_scorer import score_plainly
from weightsmith.evaluation.scoring.tree_scorer import score_tree
from weightsmith.evaluation.scoring.until_answered import until_answered
from weightsmith.models.live_model import causal_class, end_tokens, load_live_model
from weightsmith.models.model import Model

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LOOK_EVERY_ON_DEVICE = 8  # tokens: each look waits for all that the device was given; not measured yet
_OWN_LIMITS = ("n_positions", "max_position_embeddings", "n_ctx")  # in the order that lm-eval asks for them


class TransformersBackend:
    name = "transformers"

    def __init__(
        self,
        model: Model,
        *,
        precision: str = "float32",
        memory: int | None = None,
        device: str = "cpu",
        log: Callable[[str], None] = lambda text: None,
        load: Callable[[], Any] | None = None,
    ) -> None:
        """Weights are loaded when something is asked for the first time: by `load`, which gives the live model where
        `model` only says what it is, or from `model`'s files.

        `precision`: a key of PRECISIONS; `memory`: bytes that weights, keys, values and activations may take together;
        `device`: where the model computes. Raises EvaluationError, and so does the first request where the memory is
        too little."""
        self._reference, self._memory, self._log = model.reference, memory, log
        self._dtype, self._device = PRECISIONS[precision], torch.device(device)
        self._on_processor = device == "cpu"
        self.tokens, self.precision = TransformersTokens(model.home), precision_on(precision, device)
        self._load = load or (lambda: load_live_model(model, self._dtype))
        config, _ = causal_class(model.reference, model.config)
        text_config = config.get_text_config()
        self.window = next((int(v) for name in _OWN_LIMITS if (v := getattr(text_config, name, None))), None)
        self._ends = end_tokens(model) | ({self.tokens.eos} if self.tokens.eos is not None else set())
        self._halvings = 0

    @cached_property
    def _model(self) -> Any:
        model = self._load().to(self._device)
        if self._dtype == torch.bfloat16 and self._device.type == "cpu":
            use_bfloat16_attention(model)
        return model

    def weights(self) -> dict[str, torch.Tensor]:
        """The live model's own, on its device: what is written into them counts for all that is asked from then on."""
        return dict(self._model.state_dict())

    @cached_property
    def _plan(self) -> MemoryPlan:
        weights = sum(tensor.numel() * tensor.element_size() for tensor in self._model.parameters())
        if self._memory and self._memory < weights:
            raise EvaluationError(
                f"{self._reference}: its weights take {weights / 1e9:.2f} GB in {self.precision}, more than --memory "
                "allows"
            )
        return plan_memory(self._model.config, weights, self._dtype.itemsize, self._memory, self._device)

    @cached_property
    def branches(self) -> bool:
        """Whether answers of one question can be read as branches of a tree."""
        return self._agrees_with_itself()

    def _ready(self) -> None:
        """Load the model, if it is not: what goes wrong then is not about the size of a batch."""
        _ = self._plan, self.branches

    def score(self, requests: Sequence[Request], *, on_scores: OnScores | None = None) -> list[Score]:
        self._ready()
        return until_answered(
            len(requests),
            lambda left, on_results: self._score([requests[k] for k in left], on_results),
            self,
            on_scores,
        )

    def _score(self, requests: Sequence[Request], on_scores: OnScores) -> None:
        longest = max(len(request.inputs) for request in requests)
        if longest > self._plan.kept:
            raise EvaluationError(
                f"{self._reference}: memory leaves room for keys and values of {self._plan.kept} tokens, but a request "
                f"has {longest}"
            )
        if self.branches:
            score_tree(requests, TransformersTree(self._model), budget=self._pack, on_scores=on_scores)
        else:
            score_plainly(self._model, requests, budget=4 * self._pack, on_scores=on_scores)

    def ends(self, token: int) -> bool:
        return token in self._ends

    @torch.inference_mode()
    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """float32 [tokens, vocabulary]: what follows each of `tokens` (int32 ids of one text)."""
        ids = torch.from_numpy(tokens.astype(np.int64))[None].to(self._device)
        return self._model(ids).logits[0].float().cpu().numpy()

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        limit: int,
        goes_on: GoesOn,
        *,
        sampling: Sampling = GREEDY,
        on_answers: OnAnswers | None = None,
    ) -> list[str]:
        self._ready()

        def ask(left: Sequence[int], on_results: OnAnswers) -> None:
            model, known = self._model, (self.tokens, self._ends)
            room = max(1, self._plan.kept >> self._halvings)
            if not self.branches:
                run: Any = PlainGeneration(model, *known)
            elif self._on_processor:
                run = BatchGeneration(partial(GrowingSteps, model), *known, room)
            else:
                begin = partial(FixedSteps, model, read_at_once=self._pack)
                run = BatchGeneration(begin, *known, room, look_every=_LOOK_EVERY_ON_DEVICE)
            run([prompts[k] for k in left], limit, lambda k, text: goes_on(left[k], text), sampling, on_results)

        return until_answered(len(prompts), ask, self, on_answers)

    def shrink(self, error: Exception) -> None:
        """Half of the batch; raises `error` where it is of another kind, or nothing is left to halve."""
        if not isinstance(error, MemoryError) and "alloc" not in str(error):
            raise error
        if self._pack == 1:
            raise EvaluationError(f"{self._reference}: not enough memory even for one token at a time") from error
        self._halvings += 1
        self._log(f"{self._reference}: out of memory; continuing with batches half as large ({self._pack} tokens)")

    @property
    def _pack(self) -> int:
        return max(1, self._plan.pack >> self._halvings)

    def _agrees_with_itself(self) -> bool:
        """Whether the tree gives what one plain pass per request gives; not so for recurrent layers, or positions
        counted by mask."""
        window = getattr(self._model.config.get_text_config(), "sliding_window", None) or 0
        length = min(window, 1024) + 40 if window < (self.window or 0) else 40
        random = np.random.default_rng(0)
        most = min(self._model.config.get_text_config().vocab_size, 1000)
        stem = random.integers(0, most, length, dtype=np.int32)
        requests = [Request(np.concatenate([stem, random.integers(0, most, 4, dtype=np.int32)]), 3) for _ in range(2)]
        try:
            ours = score_tree(requests, TransformersTree(self._model), budget=8)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, NotImplementedError):
            return False
        plain = score_plainly(self._model, requests, budget=1)
        close = 1e-2 if self._dtype == torch.float32 else 1.0
        return all(abs(a.log_likelihood - b.log_likelihood) < close for a, b in zip(ours, plain, strict=True))
