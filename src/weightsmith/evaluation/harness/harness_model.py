"""Our backends as a model of lm-evaluation-harness: it asks texts, a backend answers for tokens.

Tokens, truncation and stop rules are those of lm-eval's own `hf` model (lm_eval/models/huggingface.py), so that scores
are too.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import Backend, Sampling
from weightsmith.evaluation.backends.open_backend import open_backend
from weightsmith.evaluation.request import Request, Score
from weightsmith.evaluation.scoring.stop_rules import UntilStop
from weightsmith.models.open_model import open_model

DEFAULT_WINDOW = 2048  # where a model does not say; lm-eval's own default
ANSWER_TOKENS = 256  # where a task does not say; lm-eval's own default

TokenCache = dict[str, np.ndarray]  # shared by models; keyed by tokenizer and text


class HarnessModel(TemplateLM):
    """`truncated` counts the requests of each task whose beginning did not fit into the window; `token_cache` is shared
    by models."""

    def __init__(
        self,
        backend: Backend,
        *,
        token_cache: TokenCache | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backend_model, self._seed, self._token_cache = backend, seed, token_cache
        self.max_length = max_length or backend.window or DEFAULT_WINDOW
        self.truncated: Counter[str] = Counter()

    @property
    def eot_token_id(self) -> int:
        eos = self.backend_model.tokens.eos
        return self.prefix_token_id if eos is None else eos

    @property
    def prefix_token_id(self) -> int:
        tokens = self.backend_model.tokens
        token = tokens.bos if tokens.bos is not None else tokens.eos
        if token is None:
            raise EvaluationError(
                "the tokenizer has neither a beginning-of-sequence nor an end-of-sequence token; texts without "
                "context need one"
            )
        return token

    @property
    def tokenizer_name(self) -> str:
        return self.backend_model.tokens.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.backend_model.tokens.template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.backend_model.tokens.chat(chat_history, answer=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self._encode([string], special=add_special_tokens)[string].tolist()

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        pairs = [_movable_space(*request.args) for request in requests]
        encoded = self._encode([context for context, _ in pairs if context])
        encoded |= self._encode([context + continuation for context, continuation in pairs if context])
        bare = self._encode([continuation for context, continuation in pairs if not context], special=False)
        scored = []
        for context, continuation in pairs:
            if context:
                context_ids = encoded[context]
                # lm-eval's own cut: what follows as many tokens as the context has alone, merged across the boundary or
                # not
                continuation_ids = encoded[context + continuation][len(context_ids) :]
            else:
                context_ids, continuation_ids = np.array([self.prefix_token_id], np.int32), bare[continuation]
                if len(continuation_ids) and continuation_ids[0] == context_ids[0]:
                    context_ids, continuation_ids = continuation_ids[:1], continuation_ids[1:]
            if not len(continuation_ids):
                raise EvaluationError(f"no token is left of the continuation {continuation!r} behind its context")
            scored.append((np.concatenate([context_ids, continuation_ids]), len(continuation_ids)))
        return [(score.log_likelihood, score.greedy) for score in self._score(scored, [r.task_name for r in requests])]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        texts = [request.args[0] for request in requests]
        encoded, windows, owners = self._encode(texts), [], []
        for number, text in enumerate(texts):
            pieces = get_rolling_token_windows(
                token_list=encoded[text].tolist(),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, pieces):
                windows.append((np.array(context + continuation, np.int32), len(continuation)))
                owners.append(number)
        totals = [0.0] * len(requests)
        tasks = [requests[number].task_name for number in owners]
        for number, score in zip(owners, self._score(windows, tasks), strict=True):
            totals[number] += score.log_likelihood
        return totals

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        scored = [
            (np.array([*context, *continuation_ids], np.int32), len(continuation_ids))
            for _, context, continuation_ids in requests
        ]
        return [(score.log_likelihood, score.greedy) for score in self._score(scored, [None] * len(scored))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[json.dumps(_generation_options(request), sort_keys=True)].append(number)
        answers = [""] * len(requests)
        for options, numbers in groups.items():
            self._generate(json.loads(options), [requests[number] for number in numbers], numbers, answers)
        return answers

    def _generate(
        self, options: dict[str, Any], requests: list[Instance], numbers: list[int], answers: list[str]
    ) -> None:
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(options, ANSWER_TOKENS))
        tokens, limit = self.backend_model.tokens, kwargs["max_gen_toks"]
        if limit >= self.max_length:
            raise EvaluationError(
                f"{requests[0].task_name}: answers of up to {limit} tokens leave no room for a question in the model's "
                f"window of {self.max_length}"
            )
        eos = tokens.decode([tokens.eos], special=True) if tokens.eos is not None else None
        stops = [stop for stop in handle_stop_sequences(kwargs["until"], eos=eos) if stop]
        sampling = Sampling()
        if kwargs["do_sample"]:
            sampling = Sampling(
                kwargs["temperature"] or 1.0, kwargs.get("top_k") or 0, kwargs.get("top_p") or 1.0, self._seed
            )
        encoded = self._encode([request.args[0] for request in requests])
        prompts = []
        for request in requests:
            prompt, room = encoded[request.args[0]], self.max_length - limit
            self._count_truncated(request.task_name, len(prompt) > room)
            prompts.append(prompt[-room:])
        texts = self.backend_model.generate(prompts, limit, UntilStop(stops), sampling=sampling)
        for number, text in zip(numbers, texts, strict=True):
            answers[number] = postprocess_generated_text(text, stops, None)

    def _score(self, scored: Sequence[tuple[np.ndarray, int]], tasks: Sequence[str | None]) -> list[Score]:
        requests = []
        for (tokens, count), task in zip(scored, tasks, strict=True):
            self._count_truncated(task, len(tokens) > self.max_length + 1)
            tokens = tokens[-(self.max_length + 1) :]  # the last one is only predicted
            requests.append(Request(tokens, min(count, len(tokens) - 1)))
        return self.backend_model.score(requests)

    def _count_truncated(self, task: str | None, cut: bool) -> None:
        if cut:
            self.truncated[task or ""] += 1

    def _encode(self, texts: Sequence[str], special: bool | None = None) -> dict[str, np.ndarray]:
        """Token ids of each different text. `special` None: as the tokenizer does, unless a text brings its first token
        itself."""
        tokens = self.backend_model.tokens
        first = ""
        if special is None and (tokens.bos if tokens.bos is not None else tokens.eos) is not None:
            first = tokens.decode([self.prefix_token_id], special=True)
        encoded: dict[str, np.ndarray] = {}
        groups: dict[bool, list[str]] = {True: [], False: []}
        for text in dict.fromkeys(texts):
            adds = special if special is not None else not (first and text.startswith(first))
            name = self._text_name(text, adds)
            if self._token_cache is not None and name in self._token_cache:
                encoded[text] = self._token_cache[name]
            else:
                groups[adds].append(text)
        for adds, finished in groups.items():
            for text, ids in zip(finished, tokens.encode(finished, special=adds), strict=True):
                encoded[text] = ids
                if self._token_cache is not None:
                    self._token_cache[self._text_name(text, adds)] = ids
        return encoded

    def _text_name(self, text: str, special: bool) -> str:
        return f"{self.tokenizer_name}{special}{xxhash.xxh3_128_hexdigest(text.encode('utf-8', 'surrogatepass'))}"


@register_model("weightsmith")
class PretrainedModel(HarnessModel):
    """The same from lm-evaluation-harness's side: `simple_evaluate(model="weightsmith",
    model_args="pretrained=FOLDER")`, once this module is imported. `pretrained` is anything that `weightsmith evaluate`
    takes but a recipe; lm-eval's `batch_size` and `device` play no part."""

    def __init__(
        self,
        pretrained: str,
        *,
        dtype: str = "float32",
        max_length: int | None = None,
        memory: int | None = None,
        **_: Any,
    ) -> None:
        backend = open_backend(open_model(pretrained), precision=dtype, memory=memory, threads=torch.get_num_threads())
        super().__init__(backend, max_length=max_length)


def _movable_space(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the end of a context belong to the word that follows."""
    bare = context.rstrip()
    return (bare, context[len(bare) :] + continuation) if bare else (context, continuation)


def _generation_options(request: Instance) -> dict[str, Any]:
    arguments: Any = request.args
    return arguments[1]
