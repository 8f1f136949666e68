"""A GGUF file run by llama.cpp itself, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import GREEDY, GoesOn, OnAnswers, Sampling
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_context import BatchEntry
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_process import LlamaCppProcess, ProcessContext
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_tokens import LlamaCppTokens
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_tree import LlamaCppTree
from weightsmith.evaluation.generation.generation_batches import generation_batches
from weightsmith.evaluation.request import OnScores, Request, Score
from weightsmith.evaluation.scoring.prefix_tree import common_prefix
from weightsmith.evaluation.scoring.tree_scorer import score_tree
from weightsmith.evaluation.scoring.until_answered import until_answered

if TYPE_CHECKING:
    import torch

PARALLEL = 64  # answers generated together
SEQUENCES = 255  # scored together, besides the stems; llama.cpp allows 256
PACK = 512  # tokens handed over in one call, and nodes of one pack of a tree
_LEAST_PACK = 8
_CELLS = 1 << 17  # positions with keys and values, where no memory limit is given


class LlamaCppBackend:
    """See `Backend`."""

    name = "llama.cpp"

    def __init__(
        self,
        path: Path,
        threads: int,
        memory: int | None = None,
        log: Callable[[str], None] = lambda text: None,
        *,
        offload: bool = False,
    ) -> None:
        """`memory`: bytes for weights, keys and values; `offload`: all layers go to a GPU, where the installed
        llama.cpp can use one. Raises EvaluationError for a file that llama.cpp cannot load."""
        self._path, self._threads, self._log = path, threads, log
        self._process = LlamaCppProcess(path, offload=offload)
        if offload and not self._process.offloaded:
            log(f"{path}: the installed llama.cpp cannot use a GPU; this file is asked on the processor")
        self.tokens = LlamaCppTokens(self._process)
        self.window, self.precision = self._process.window, "as stored"
        self._pack, self._parallel, self._cells = PACK, PARALLEL, _CELLS
        if memory:
            weights = path.stat().st_size
            if memory < weights:
                raise EvaluationError(f"{path}: it takes {weights / 1e9:.2f} GB, more than --memory allows", path=path)
            self._cells = (memory - weights) // 2 // self._process.bytes_per_position
            logits_bytes = 4 * self._process.vocabulary_size
            self._pack = min(PACK, max(_LEAST_PACK, (memory - weights) // 4 // logits_bytes))

    def context(self, cells: int, sequences: int = 1) -> ProcessContext:
        """Room for `cells` positions of `sequences`."""
        return ProcessContext(self._process, cells, sequences=sequences, batch_size=self._pack, threads=self._threads)

    def ends(self, token: int) -> bool:
        return self.tokens.ends(token)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """float32 [tokens, vocabulary]: what follows each of `tokens` (int32 ids of one text)."""
        entries = [(int(token), position, [0], True) for position, token in enumerate(tokens)]
        with self.context(len(tokens)) as context:
            return np.stack(context.decode(entries))

    def score(self, requests: Sequence[Request], *, on_scores: OnScores | None = None) -> list[Score]:
        def ask(left: Sequence[int], on_scores: OnScores) -> None:
            self._score([requests[k] for k in left], on_scores)

        return until_answered(len(requests), ask, self, on_scores)

    def _score(self, requests: Sequence[Request], on_scores: OnScores) -> None:
        longest = max(len(request.inputs) for request in requests)
        if 2 * longest > self._cells:  # its stems, and a pack that holds one answer of its own
            raise EvaluationError(
                f"{self._path}: memory leaves room for keys and values of {self._cells} tokens, but a request of "
                f"{longest} tokens needs twice its own length",
                path=self._path,
            )
        pack = min(self._pack, self._cells - longest)
        sequences = min(SEQUENCES, self._pack - 1)  # llama.cpp wants a token per sequence in a full batch
        with self.context(longest + max(pack, longest), sequences + 1) as context:
            score_tree(requests, LlamaCppTree(context), budget=pack, most=sequences, on_scores=on_scores)

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        limit: int,
        goes_on: GoesOn,
        *,
        sampling: Sampling = GREEDY,
        on_answers: OnAnswers | None = None,
    ) -> list[str]:
        import torch

        generator = torch.Generator().manual_seed(sampling.seed)

        def ask(left: Sequence[int], on_answers: OnAnswers) -> None:
            remaining = [prompts[k] for k in left]
            for batch in generation_batches(remaining, limit, self._cells, min(self._parallel, self._pack)):
                answers = self._answer(
                    [remaining[k] for k in batch],
                    limit,
                    lambda k, text, batch=batch: goes_on(left[batch[k]], text),
                    sampling,
                    generator,
                )
                for finished in answers:
                    on_answers([(batch[k], text) for k, text in finished])

        return until_answered(len(prompts), ask, self, on_answers)

    def _answer(
        self,
        prompts: Sequence[np.ndarray],
        limit: int,
        goes_on: GoesOn,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> Iterator[list[tuple[int, str]]]:
        """Answer sorted prompts, each a sequence of its own: yields their numbers with their answers, as soon as they
        are finished."""
        import torch

        from weightsmith.evaluation.generation.next_token import next_tokens

        texts = [""] * len(prompts)
        answers: list[list[int]] = [[] for _ in prompts]
        with self.context(sum(map(len, prompts)) + limit * len(prompts), len(prompts)) as context:
            logits = _read_prompts(context, prompts)
            waiting = list(range(len(prompts)))
            for step in range(limit):
                following = next_tokens(torch.from_numpy(np.stack(logits)), sampling, generator).tolist()
                entries: list[BatchEntry] = []
                unfinished = []
                for sequence, token in zip(waiting, following, strict=True):
                    if self.tokens.ends(token):
                        continue
                    position = len(prompts[sequence]) + len(answers[sequence])
                    answers[sequence].append(token)
                    texts[sequence] = self.tokens.decode(answers[sequence])
                    if goes_on(sequence, self.tokens.decode(answers[sequence], special=True)):
                        entries.append((token, position, [sequence], True))
                        unfinished.append(sequence)
                if step == limit - 1:
                    unfinished = []
                if finished := [(sequence, texts[sequence]) for sequence in waiting if sequence not in unfinished]:
                    yield finished
                waiting = unfinished
                if not waiting:
                    return
                logits = context.decode(entries)

    def shrink(self, error: Exception) -> None:
        """Half of the batch; raises `error` where it is of another kind, or nothing is left to halve."""
        if not isinstance(error, MemoryError):
            raise error
        if self._pack == _LEAST_PACK:
            raise EvaluationError(
                f"{self._path}: not enough memory even for {_LEAST_PACK} tokens at a time", path=self._path
            ) from error
        self._pack, self._parallel = max(_LEAST_PACK, self._pack // 2), max(1, self._parallel // 2)
        self._log(f"{self._path}: out of memory; continuing with batches half as large ({self._pack} tokens)")


def _read_prompts(context: ProcessContext, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The logits behind each of the sorted prompts; what a prompt shares with the one before is not read again."""
    logits = []
    for sequence, prompt in enumerate(prompts):
        shared = min(common_prefix(prompts[sequence - 1], prompt), len(prompt) - 1) if sequence else 0
        if shared:
            context.copy(sequence - 1, sequence, shared)
        last = len(prompt) - 1
        entries = [(int(prompt[p]), p, [sequence], p == last) for p in range(shared, last + 1)]
        logits += context.decode(entries)
    return logits
