"""A live `transformers` model as the evaluation loop sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from weightsmith.architecture import Model
from weightsmith.errors import EvaluationError
from weightsmith.evaluate.backend import GREEDY, Answered, Live, Sampling
from weightsmith.evaluate.batch_generation import BatchGeneration
from weightsmith.evaluate.bfloat16_attention import use_bfloat16_attention
from weightsmith.evaluate.live_model import end_tokens, live_model
from weightsmith.evaluate.memory_plan import plan_memory
from weightsmith.evaluate.plain_generation import PlainGeneration
from weightsmith.evaluate.plain_scorer import score_plainly
from weightsmith.evaluate.request import Done, Request, Score
from weightsmith.evaluate.text_tokens import TransformersTokens
from weightsmith.evaluate.transformers_tree import TransformersTree
from weightsmith.evaluate.tree_scorer import score_tree
from weightsmith.evaluate.until_answered import until_answered

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_OWN_LIMITS = ("n_positions", "max_position_embeddings", "n_ctx")  # in the order that lm-eval asks for them


class TransformersBackend:
    name = "transformers"

    def __init__(
        self, model: Model, *, precision: str = "float32", memory: int | None = None,
        say: Callable[[str], None] = lambda text: None, live: Any = None,
    ) -> None:  # fmt: skip
        """`precision`: a key of PRECISIONS; `memory`: bytes that weights, keys, values and activations may take together; `live`:
        a model that is loaded already, where `model` only says what it is. Raises EvaluationError."""
        self._reference, self._say = model.reference, say
        self.tokens = TransformersTokens(model.home)
        self._model = live if live is not None else live_model(model, PRECISIONS[precision])
        self.precision = str(self._model.dtype).removeprefix("torch.")
        if self.precision == "bfloat16":
            use_bfloat16_attention(self._model)
        config = self._model.config.get_text_config()
        self.window = next((int(v) for name in _OWN_LIMITS if (v := getattr(config, name, None))), None)
        self._ends = end_tokens(model) | ({self.tokens.eos} if self.tokens.eos is not None else set())
        weights = sum(tensor.numel() * tensor.element_size() for tensor in self._model.parameters())
        itemsize = PRECISIONS[self.precision].itemsize
        if memory and memory < weights:
            raise EvaluationError(
                f"{model.reference}: its weights take {weights / 1e9:.2f} GB in {self.precision}, more than --memory allows"
            )
        self._plan, self._halvings = plan_memory(self._model.config, weights, itemsize, memory), 0
        self.branches = self._agrees_with_itself()

    def score(self, requests: Sequence[Request], *, done: Done | None = None) -> list[Score]:
        return until_answered(
            len(requests), lambda left, note: self._score([requests[k] for k in left], note), self, done
        )

    def _score(self, requests: Sequence[Request], done: Done) -> None:
        longest = max(len(request.inputs) for request in requests)
        if longest > self._plan.kept:
            raise EvaluationError(
                f"{self._reference}: memory leaves room for keys and values of {self._plan.kept} tokens, but a request has {longest}"
            )
        if self.branches:
            score_tree(requests, TransformersTree(self._model), budget=self._pack, done=done)
        else:
            score_plainly(self._model, requests, budget=4 * self._pack, done=done)

    def ends(self, token: int) -> bool:
        return token in self._ends

    @torch.inference_mode()
    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """float32 [tokens, vocabulary]: what follows each of `tokens` (int32 ids of one text)."""
        return self._model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].float().numpy()

    def generate(
        self, prompts: Sequence[np.ndarray], limit: int, live: Live, *, sampling: Sampling = GREEDY,
        answered: Answered | None = None,
    ) -> list[str]:  # fmt: skip
        form = BatchGeneration if self.branches else PlainGeneration

        def ask(left: Sequence[int], note: Answered) -> None:
            run = form(self._model, self.tokens, self._ends, max(1, self._plan.kept >> self._halvings))
            run([prompts[k] for k in left], limit, lambda k, text: live(left[k], text), sampling, note)

        return until_answered(len(prompts), ask, self, answered)

    def shrink(self, error: Exception) -> None:
        """Half of the batch; raises `error` where it is of another kind, or nothing is left to halve."""
        if not isinstance(error, MemoryError) and "alloc" not in str(error):
            raise error
        if self._pack == 1:
            raise EvaluationError(f"{self._reference}: not enough memory even for one token at a time") from error
        self._halvings += 1
        self._say(f"{self._reference}: out of memory, going on with batches half as large ({self._pack} tokens)")

    @property
    def _pack(self) -> int:
        return max(1, self._plan.pack >> self._halvings)

    def _agrees_with_itself(self) -> bool:
        """Does the tree give what one plain pass per request gives? Not for recurrent layers, nor where positions count by mask."""
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
        close = 1e-2 if self.precision == "float32" else 1.0
        return all(abs(a.log_likelihood - b.log_likelihood) < close for a, b in zip(ours, plain, strict=True))
