"""A GGUF file run by llama.cpp itself, in process, through its C interface.

Sequences share what they have in common: a token of the batch belongs to all sequences that go on from it, and the key-value cache
holds it once (`llama_batch.seq_id`, `llama_memory_seq_cp`; llama.cpp's include/llama.h).
"""

from __future__ import annotations

import ctypes
import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weightsmith.checkpoint.gguf_file import GGUFFile
from weightsmith.errors import EvaluationError
from weightsmith.evaluate.backend import GREEDY, Answered, Live, Sampling
from weightsmith.evaluate.generation_batches import generation_batches
from weightsmith.evaluate.next_token import next_tokens
from weightsmith.evaluate.prefix_tree import Step, common_prefix
from weightsmith.evaluate.request import Done, Request, Score
from weightsmith.evaluate.text_tokens import Messages
from weightsmith.evaluate.tree_scorer import Prediction, Wanted, score_tree
from weightsmith.evaluate.until_answered import until_answered
from weightsmith.llama_cpp import heard_errors, load_llama_cpp
from weightsmith.tokenizer.chat import chat_text

PARALLEL = 64  # answers generated together
SEQUENCES = 255  # scored together, besides the stems; llama.cpp knows 256
PACK = 512  # tokens handed over in one call, and nodes of one pack of a tree
_LEAST_PACK = 8
_NO_ROOM, _NOT_ALLOCATED = 1, -2  # what llama_decode returns (include/llama.h; ggml_status)

Entry = tuple[int, int, Sequence[int], bool]  # token, position, sequences, are its logits wanted


class LlamaCppBackend:
    name = "llama.cpp"

    def __init__(
        self, path: Path, threads: int, memory: int | None = None, say: Callable[[str], None] = lambda text: None
    ) -> None:
        """`memory`: bytes for weights, keys and values. Raises EvaluationError for a file that llama.cpp cannot load."""
        self._lib = load_llama_cpp()
        self._path, self._threads, self._say = path, threads, say
        file = GGUFFile(path)  # also refuses a file that is cut short, before native code reads it
        parameters = self._lib.llama_model_default_params()
        parameters.n_gpu_layers = 0
        errors: list[str] = []
        with heard_errors(errors):
            self._model = self._lib.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise EvaluationError(f"{path}: llama.cpp cannot load it" + (f": {errors[0]}" if errors else ""))
        self._loaded = _Loaded(self._lib, self._model)
        self.tokens = LlamaCppTokens(self._lib, self._loaded, file, path)
        self._size = self._lib.llama_vocab_n_tokens(self.tokens.vocabulary)
        self.window: int | None = self._lib.llama_model_n_ctx_train(self._model) or None
        self.precision = "as stored"
        layers, heads = self._lib.llama_model_n_layer(self._model), self._lib.llama_model_n_head_kv(self._model)
        head = self._lib.llama_model_n_embd(self._model) // self._lib.llama_model_n_head(self._model)
        position = 2 * layers * heads * head * 2  # keys and values in float16
        weights = path.stat().st_size
        if memory and memory < weights:
            raise EvaluationError(f"{path}: it takes {weights / 1e9:.2f} GB, more than --memory allows")
        self._cells = (memory - weights) // 2 // position if memory else 1 << 17
        self._pack, self._parallel = PACK, PARALLEL
        if memory:
            self._pack = min(PACK, max(_LEAST_PACK, (memory - weights) // 4 // (4 * self._size)))  # logits of a pack

    def score(self, requests: Sequence[Request], *, done: Done | None = None) -> list[Score]:
        return until_answered(
            len(requests), lambda left, note: self._score([requests[k] for k in left], note), self, done
        )

    def _score(self, requests: Sequence[Request], done: Done) -> None:
        longest = max(len(request.inputs) for request in requests)
        if 2 * longest > self._cells:  # its stems, and a pack that holds one answer of its own
            raise EvaluationError(
                f"{self._path}: memory leaves room for keys and values of {self._cells} tokens, but a request of {longest} needs "
                f"twice as many as it has"
            )
        pack = min(self._pack, self._cells - longest)
        most = min(SEQUENCES, self._pack - 1)  # llama.cpp wants a token per sequence in a full batch
        with self.context(longest + max(pack, longest), most + 1) as context:
            score_tree(requests, _LlamaCppTree(context), budget=pack, most=most, done=done)

    def context(self, cells: int, sequences: int = 1, on_operation: Any = None) -> Context:
        """Room for `cells` positions of `sequences`; `on_operation`: a `ggml_backend_sched_eval_callback`. To be closed with `with`."""
        return Context(self, cells, sequences, on_operation)

    def ends(self, token: int) -> bool:
        return self.tokens.ends(token)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """float32 [tokens, vocabulary]: what follows each of `tokens` (int32 ids of one text)."""
        with self.context(len(tokens)) as context:
            return np.stack(context.decode([(int(token), place, [0], True) for place, token in enumerate(tokens)]))

    def generate(
        self, prompts: Sequence[np.ndarray], limit: int, live: Live, *, sampling: Sampling = GREEDY,
        answered: Answered | None = None,
    ) -> list[str]:  # fmt: skip
        generator = torch.Generator().manual_seed(sampling.seed)

        def ask(left: Sequence[int], note: Answered) -> None:
            some = [prompts[k] for k in left]
            for batch in generation_batches(some, limit, self._cells, min(self._parallel, self._pack)):
                answers = self._answer(
                    [some[k] for k in batch], limit, lambda k, text, batch=batch: live(left[batch[k]], text), sampling, generator
                )  # fmt: skip
                for found in answers:
                    note([(batch[k], text) for k, text in found])

        return until_answered(len(prompts), ask, self, answered)

    def shrink(self, error: Exception) -> None:
        """Half of the batch; raises `error` where it is of another kind, or nothing is left to halve."""
        if not isinstance(error, MemoryError):
            raise error
        if self._pack == _LEAST_PACK:
            raise EvaluationError(f"{self._path}: not enough memory even for {_LEAST_PACK} tokens at a time") from error
        self._pack, self._parallel = max(_LEAST_PACK, self._pack // 2), max(1, self._parallel // 2)
        self._say(f"{self._path}: out of memory, going on with batches half as large ({self._pack} tokens)")

    def _answer(
        self, prompts: Sequence[np.ndarray], limit: int, live: Live, sampling: Sampling, generator: torch.Generator
    ) -> Iterator[list[tuple[int, str]]]:
        """Of sorted prompts, each a sequence of its own: their numbers with their answers, as soon as they are finished."""
        texts = [""] * len(prompts)
        with self.context(sum(map(len, prompts)) + limit * len(prompts), len(prompts)) as context:
            rows = []
            for sequence, prompt in enumerate(prompts):
                kept = min(common_prefix(prompts[sequence - 1], prompt), len(prompt) - 1) if sequence else 0
                if kept:
                    context.copy(sequence - 1, sequence, kept)
                last = len(prompt) - 1
                rows += context.decode([(int(prompt[p]), p, [sequence], p == last) for p in range(kept, last + 1)])
            waiting = list(range(len(prompts)))
            answers: list[list[int]] = [[] for _ in prompts]
            for step in range(limit):
                following = next_tokens(torch.from_numpy(np.stack(rows)), sampling, generator).tolist()
                entries: list[Entry] = []
                still = []
                for sequence, token in zip(waiting, following, strict=True):
                    if self.tokens.ends(token):
                        continue
                    position = len(prompts[sequence]) + len(answers[sequence])
                    answers[sequence].append(token)
                    texts[sequence] = self.tokens.decode(answers[sequence])
                    if live(sequence, self.tokens.decode(answers[sequence], special=True)):
                        entries.append((token, position, [sequence], True))
                        still.append(sequence)
                if step == limit - 1:
                    still = []
                if found := [(sequence, texts[sequence]) for sequence in waiting if sequence not in still]:
                    yield found
                waiting = still
                if not waiting:
                    return
                rows = context.decode(entries)


class Context:
    """A key-value cache of `cells` positions, shared by `sequences`."""

    def __init__(self, backend: LlamaCppBackend, cells: int, sequences: int, on_operation: Any = None) -> None:
        self._lib, self._path, self._size = backend._lib, backend._path, backend._size
        parameters = self._lib.llama_context_default_params()
        self._pack = backend._pack
        parameters.n_ctx, parameters.n_seq_max = max(cells, 256), sequences
        parameters.n_batch = parameters.n_ubatch = self._pack
        parameters.n_threads = parameters.n_threads_batch = backend._threads
        parameters.kv_unified = True
        if on_operation is not None:
            parameters.cb_eval = on_operation
        self._pointer = self._lib.llama_init_from_model(backend._model, parameters)
        if not self._pointer:
            raise MemoryError(f"{self._path}: llama.cpp cannot make a context of {cells} tokens")
        self._memory = self._lib.llama_get_memory(self._pointer)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.llama_free(self._pointer)

    def copy(self, source: int, target: int, positions: int) -> None:
        """Let `target` see the first `positions` of `source`."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, positions)

    def remove(self, sequence: int, position: int) -> None:
        """Forget a sequence (-1: all of them) from `position` on."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, position, -1)

    def decode(self, entries: Sequence[Entry]) -> list[np.ndarray]:
        """The logits asked for, float32 [vocabulary] each."""
        found: list[np.ndarray] = []
        for start in range(0, len(entries), self._pack):
            part = entries[start : start + self._pack]
            batch = self._lib.llama_batch_init(len(part), 0, max(len(sequences) for _, _, sequences, _ in part))
            try:
                batch.n_tokens = len(part)
                for i, (token, position, sequences, wanted) in enumerate(part):
                    batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, len(sequences)
                    for k, sequence in enumerate(sequences):
                        batch.seq_id[i][k] = sequence
                    batch.logits[i] = int(wanted)
                code = self._lib.llama_decode(self._pointer, batch)
                if code in (_NO_ROOM, _NOT_ALLOCATED):
                    raise MemoryError(f"{self._path}: llama.cpp has no room for {len(part)} tokens")
                if code:
                    raise EvaluationError(f"{self._path}: llama.cpp stopped with code {code}")
                for i, entry in enumerate(part):
                    if entry[3]:
                        row = self._lib.llama_get_logits_ith(self._pointer, i)
                        found.append(np.ctypeslib.as_array(row, (self._size,)).copy())
            finally:
                self._lib.llama_batch_free(batch)
        return found


class _LlamaCppTree:
    """`predict` of `score_tree`: sequence 0 is the stems, each sequence of a pack gets a number of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, step: Step, wanted: Wanted) -> Iterator[Prediction]:
        self._context.remove(0, step.depth)
        of_node: list[list[int]] = [[] for _ in step.tokens]
        if step.stem:
            of_node = [[0] for _ in step.tokens]
        else:
            for sequence, path in enumerate(step.paths.values(), start=1):
                if step.depth:
                    self._context.copy(0, sequence, step.depth)
                for node in path:
                    of_node[node].append(sequence)
        entries = [
            (int(token), int(position), of_node[node], node in wanted)
            for node, (token, position) in enumerate(zip(step.tokens, step.positions, strict=True))
        ]
        for node, row in zip(sorted(wanted), self._context.decode(entries), strict=True):
            wide = row.astype(np.float64)
            top, best = wide.max(), int(wide.argmax())
            normal = top + np.log(np.exp(wide - top).sum())
            for sequence, token in wanted[node]:
                yield Prediction(sequence, float(wide[token] - normal), best)
        if not step.stem:
            for sequence in range(1, len(step.paths) + 1):
                self._context.remove(sequence, 0)


def tokens_of_file(path: Path) -> LlamaCppTokens:
    """The tokenizer of a file alone, without its weights. Raises EvaluationError."""
    library = load_llama_cpp()
    file, parameters, errors = GGUFFile(path), library.llama_model_default_params(), list[str]()
    parameters.vocab_only = True
    with heard_errors(errors):
        pointer = library.llama_model_load_from_file(str(path).encode(), parameters)
    if not pointer:
        raise EvaluationError(f"{path}: llama.cpp cannot load it" + (f": {errors[0]}" if errors else ""))
    return LlamaCppTokens(library, _Loaded(library, pointer), file, path)


class _Loaded:
    """A model in llama.cpp's memory, as long as anyone holds this."""

    def __init__(self, library: Any, pointer: Any) -> None:
        self.pointer = pointer
        weakref.finalize(self, library.llama_model_free, pointer)


class LlamaCppTokens:
    """llama.cpp's own tokenizer, which is the one that the file will be used with."""

    def __init__(self, library: Any, loaded: _Loaded, file: GGUFFile, path: Path) -> None:
        self._lib, self._path, self._loaded = library, path, loaded
        self.vocabulary = library.llama_model_get_vocab(loaded.pointer)
        bos, eos = library.llama_vocab_bos(self.vocabulary), library.llama_vocab_eos(self.vocabulary)
        self.bos, self.eos = (bos if bos >= 0 else None), (eos if eos >= 0 else None)
        self.adds_bos = bool(library.llama_vocab_get_add_bos(self.vocabulary))
        self.template: str | None = file.metadata.get("tokenizer.chat_template")
        told = {k: str(v) for k, v in file.metadata.items() if k.startswith("tokenizer.")}
        self.fingerprint = hashlib.sha256(repr(sorted(told.items())).encode()).hexdigest()

    def ends(self, token: int) -> bool:
        return bool(self._lib.llama_vocab_is_eog(self.vocabulary, token))

    def encode(self, texts: Sequence[str], *, special: bool) -> list[np.ndarray]:
        return [self._encode(text, special) for text in texts]

    def _encode(self, text: str, special: bool) -> np.ndarray:
        raw = text.encode()
        room = len(raw) + 8
        out = (self._lib.llama_token * room)()
        count = self._lib.llama_tokenize(self.vocabulary, raw, len(raw), out, room, special, True)
        if count < 0:
            raise EvaluationError(f"{self._path}: llama.cpp cannot tokenize a text of {len(raw)} bytes")
        return np.array(out[:count], np.int32)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        room = 64 * len(tokens) + 64
        out = ctypes.create_string_buffer(room)
        ids = (self._lib.llama_token * len(tokens))(*tokens)
        count = self._lib.llama_detokenize(self.vocabulary, ids, len(tokens), out, room, False, special)
        return out.raw[: max(count, 0)].decode(errors="replace")

    def chat(self, messages: Messages, *, answer: bool = True) -> str:
        if not self.template:
            raise EvaluationError(f"{self._path}: no chat template in it")
        return chat_text(self.template, messages, bos=self._text(self.bos), eos=self._text(self.eos), answer=answer)

    def _text(self, token: int | None) -> str:
        return self._lib.llama_vocab_get_text(self.vocabulary, token).decode() if token is not None else ""
