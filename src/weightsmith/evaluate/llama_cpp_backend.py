"""A GGUF file run by llama.cpp itself, through its C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.gguf_file import GGUFFile
from weightsmith.errors import EvaluationError
from weightsmith.evaluate.backend import Live, common_prefix
from weightsmith.export.llama_cpp import load_llama_cpp
from weightsmith.tokenizer.chat import chat_prompt

PARALLEL = 64  # sequences decoded together; llama.cpp's own limit is 256
STEP = 512  # tokens handed over in one call


class _Context:
    """Frees llama.cpp's key-value cache with the last reference."""

    def __init__(self, library: Any, pointer: Any) -> None:
        self.pointer, self._free = pointer, library.llama_free

    def __del__(self) -> None:
        self._free(self.pointer)


class LlamaCppBackend:
    name = "llama.cpp"

    def __init__(self, path: Path, threads: int) -> None:
        self._lib = load_llama_cpp()
        self._path, self._threads = path, threads
        metadata = GGUFFile(path).metadata  # also refuses a file that is cut short, before native code reads it
        self._template: str | None = metadata.get("tokenizer.chat_template")
        parameters = self._lib.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise EvaluationError(f"{path}: llama.cpp cannot load it")
        self._vocabulary = self._lib.llama_model_get_vocab(self._model)
        self._size = self._lib.llama_vocab_n_tokens(self._vocabulary)

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._lib.llama_model_free(self._model)

    def _tokens(self, text: str, *, special: bool, add: bool) -> list[int]:
        raw = text.encode()
        room = len(raw) + 8
        out = (self._lib.llama_token * room)()
        count = self._lib.llama_tokenize(self._vocabulary, raw, len(raw), out, room, add, special)
        if count < 0:
            raise EvaluationError(f"{self._path}: llama.cpp cannot tokenize a text of {len(raw)} bytes")
        return out[:count]

    def _text(self, tokens: Sequence[int]) -> str:
        room = 64 * len(tokens) + 64
        out = ctypes.create_string_buffer(room)
        ids = (self._lib.llama_token * len(tokens))(*tokens)
        count = self._lib.llama_detokenize(self._vocabulary, ids, len(tokens), out, room, False, False)
        return out.raw[: max(count, 0)].decode(errors="replace")

    def encode(self, text: str) -> list[int]:
        return self._tokens(text, special=False, add=False)

    def encode_question(self, prompt: str) -> list[int]:
        if not self._template:
            return self._tokens(prompt, special=False, add=True)
        ends = []
        for token in (self._lib.llama_vocab_bos(self._vocabulary), self._lib.llama_vocab_eos(self._vocabulary)):
            ends.append(self._lib.llama_vocab_get_text(self._vocabulary, token).decode() if token >= 0 else "")
        return self._tokens(chat_prompt(self._template, prompt, bos=ends[0], eos=ends[1]), special=True, add=False)

    def _context(self, tokens: int, sequences: int) -> _Context:
        parameters = self._lib.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_seq_max = tokens, STEP, sequences
        parameters.n_ubatch = 512
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.kv_unified = True
        context = self._lib.llama_init_from_model(self._model, parameters)
        if not context:
            raise EvaluationError(f"{self._path}: llama.cpp cannot make a context of {tokens} tokens")
        return _Context(self._lib, context)

    def _decode(self, context: _Context, entries: list[tuple[int, int, int, bool]]) -> list[np.ndarray]:
        """Entries are (token, position, sequence, wants logits); returns the logits asked for, float32 [vocabulary]."""
        found: list[np.ndarray] = []
        for start in range(0, len(entries), STEP):
            part = entries[start : start + STEP]
            batch = self._lib.llama_batch_init(len(part), 0, 1)
            try:
                batch.n_tokens = len(part)
                for i, (token, position, sequence, wanted) in enumerate(part):
                    batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
                    batch.seq_id[i][0], batch.logits[i] = sequence, int(wanted)
                code = self._lib.llama_decode(context.pointer, batch)
                if code:
                    raise EvaluationError(f"{self._path}: llama.cpp stopped with code {code}")
                for i, entry in enumerate(part):
                    if entry[3]:
                        row = self._lib.llama_get_logits_ith(context.pointer, i)
                        found.append(np.ctypeslib.as_array(row, (self._size,)).copy())
            finally:
                self._lib.llama_batch_free(batch)
        return found

    def negative_log_likelihood(self, tokens: Sequence[int]) -> float:
        context = self._context(max(len(tokens), 256), 1)
        logits = self._decode(context, [(t, i, 0, i < len(tokens) - 1) for i, t in enumerate(tokens)])
        total = 0.0
        for row, token in zip(logits, tokens[1:], strict=True):
            wide = row.astype(np.float64)
            top = wide.max()
            total += top + np.log(np.exp(wide - top).sum()) - wide[token]
        return float(total)

    def generate(self, prompts: Sequence[Sequence[int]], limit: int, live: Live) -> list[str]:
        texts = [""] * len(prompts)
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(by_length), PARALLEL):
            self._generate_batch(by_length[start : start + PARALLEL], prompts, limit, live, texts)
        return texts

    def _generate_batch(
        self, chosen: list[int], prompts: Sequence[Sequence[int]], limit: int, live: Live, texts: list[str]
    ) -> None:
        prefix = common_prefix([prompts[i] for i in chosen])
        cells = prefix + sum(len(prompts[i]) - prefix + limit for i in chosen)
        context = self._context(max(cells, 256), len(chosen))
        if prefix:
            self._decode(context, [(t, i, 0, False) for i, t in enumerate(prompts[chosen[0]][:prefix])])
            memory = self._lib.llama_get_memory(context.pointer)
            for sequence in range(1, len(chosen)):
                self._lib.llama_memory_seq_cp(memory, 0, sequence, 0, prefix)
        entries = []
        for sequence, i in enumerate(chosen):
            last = len(prompts[i]) - 1
            entries += [(prompts[i][p], p, sequence, p == last) for p in range(prefix, last + 1)]
        waiting = list(range(len(chosen)))
        answers: list[list[int]] = [[] for _ in chosen]
        for _ in range(limit):
            rows = self._decode(context, entries)
            entries, still = [], []
            for sequence, row in zip(waiting, rows, strict=True):
                question, token = chosen[sequence], int(row.argmax())
                if self._lib.llama_vocab_is_eog(self._vocabulary, token):
                    continue
                position = len(prompts[question]) + len(answers[sequence])
                answers[sequence].append(token)
                texts[question] = self._text(answers[sequence])
                if live(question, texts[question]):
                    entries.append((token, position, sequence, True))
                    still.append(sequence)
            waiting = still
            if not waiting:
                break
