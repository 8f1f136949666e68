"""Whether an exported file is the model that it was made from: tokens of texts in many scripts, and next-token
distributions."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from weightsmith.errors import EvaluationError, ExportError
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_backend import LlamaCppBackend
from weightsmith.evaluation.backends.transformers.transformers_tokens import TransformersTokens
from weightsmith.gguf.conversion.export_source import ExportSource
from weightsmith.gguf.fidelity import Fidelity
from weightsmith.machine import available_memory
from weightsmith.models.live_model import end_tokens, fill_model

# Of an unquantized file. Right ones were at most 0.01 from their source (docs/export.md), one whose converter passed
# over
# a setting 0.3.
_DEVIATION = 0.1
_FAST = 128  # tokens whose distributions are compared; `full` takes all of the texts
_ADDED = 256  # added tokens that are checked; Gemma has thousands without a use

# Scripts, digits, spaces, emoji with joiners, contractions, code; composed (NFC), as llama.cpp does not compose.
TEXTS = (
    "The quick brown fox jumps over the lazy dog. It's 12:45, we'll see you're RIGHT; they'd've known!  Two  spaces.",
    "Zażółć gęślą jaźń. Größe, naïve façade, œuvre. Здравствуйте, как дела? Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم.",
    "今日はいい天気ですね。我想在apple工作1314151天～ 안녕하세요 세계. नमस्ते दुनिया। สวัสดีชาวโลก កាន់តែពិសេស.",
    "🚀 (normal) 😶‍🌫️ 👩‍👩‍👧 ✅ 🦙🦙 ½ ² ① 3 33 333 3333 33333 3.14159 1,000,000",
    "def f(x: int) -> str:\n\tif x >= 10:\n\t\treturn f\"{x!r}\"  # comment\n\n\n    return ''\r\n\r\n",
)
PASSAGE = (
    "The river rises in the hills to the north of the town and runs for some forty miles before it meets the sea. Its "
    "upper course is steep and narrow, and until the middle of the nineteenth century it drove eleven mills, of which "
    "two are still standing. Below the bridge the valley widens, and the water slows among meadows that are flooded in "
    "most winters. In 1857 the railway company built an embankment along the eastern side. It was meant to carry two "
    "tracks; only one was ever laid. Trains ran twice a day until 1962, when the line was closed. The embankment is "
    "now a footpath, and from it one can see as far as the lighthouse on a clear morning. What people remember best, "
    "however, is the market. Every Thursday farmers brought cheese, wool and apples to the square in front of the "
    "church, and whoever came late had to put up a stall in one of the side streets. A bell was rung at noon, after "
    "which no more goods could be brought in. The custom ended with the war, but the bell still hangs above the door "
    "of the old town hall."
)


class Reference:
    """The source's tokenizer, and its weights in `transformers`, loaded when they are first needed."""

    def __init__(self, source: ExportSource, *, full: bool) -> None:
        self._source, self._full = source, full

    @cached_property
    def tokens(self) -> TransformersTokens:
        return self._staged[0]

    @cached_property
    def stop_texts(self) -> list[str]:
        """The texts of the tokens that end an answer."""
        tokens, ends = self._staged
        return [tokens.tokenizer.convert_ids_to_tokens(number) for number in sorted(ends)]

    @cached_property
    def _staged(self) -> tuple[TransformersTokens, set[int]]:
        with tempfile.TemporaryDirectory(prefix="weightsmith-") as folder:
            self._source.stage(Path(folder))
            tokens = TransformersTokens(Path(folder))
            ends = end_tokens(replace(self._source.home, home=Path(folder), config=self._source.config))
        return tokens, ends | ({tokens.eos} if tokens.eos is not None else set())

    @cached_property
    def texts(self) -> list[np.ndarray]:
        """int32 ids of the texts that are compared."""
        positions = self._source.config.get("max_position_embeddings") or self._source.config.get("n_positions")
        most = positions if type(positions) is int and positions > 0 else None
        if not self._full:
            return [self.tokens.encode([PASSAGE], special=True)[0][: min(_FAST, most or _FAST)]]
        return [ids[:most] for ids in self.tokens.encode([PASSAGE, *TEXTS], special=True)]

    @cached_property
    def logits(self) -> list[np.ndarray]:
        """float32 [tokens, vocabulary] of each text. Raises EvaluationError where no class of transformers computes the
        model, or where it does not fit into memory."""
        elements = sum(tensor.info.numel for tensor in self._source.tensors)
        dtype = next(
            (d for d in (torch.float32, torch.bfloat16) if elements * d.itemsize * 1.2 < available_memory()), None
        )
        if dtype is None:
            raise EvaluationError("the source weights do not fit into memory")
        weights = {tensor.name: self._source.load(tensor).to(dtype) for tensor in self._source.tensors}
        model = fill_model(self._source.reference, self._source.config, weights, dtype)
        with torch.inference_mode():
            return [model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].float().numpy() for ids in self.texts]


def check_file(path: Path, reference: Reference, threads: int, name: Path, *, exact: bool) -> Fidelity | str:
    """Load `path`, which will be called `name`, with llama.cpp, compare its tokens and its distributions with the
    source's. A text instead of the latter says why they could not be compared. Raises ExportError where llama.cpp
    cannot load it, or reads texts as other tokens, or computes something else although the weights are not quantized
    (`exact`)."""
    try:
        file = LlamaCppBackend(path, threads)
    except EvaluationError as error:
        raise ExportError(str(error)) from error
    _check_tokens(file, reference.tokens, name)
    try:
        source_logits = reference.logits
    except EvaluationError as error:
        return str(error)
    fidelity = _fidelity([file.logits(ids) for ids in reference.texts], source_logits)
    if exact and not fidelity.deviation <= _DEVIATION:
        raise ExportError(
            f"{name}: llama.cpp computes something else than the model although no weight is quantized: the most "
            "likely "
            f"next token agrees at {fidelity.same_top:.1%} of {fidelity.tokens} places, logits are "
            f"{fidelity.deviation:.0%} "
            "off. llama.cpp or its converter passes over a setting of this model's config.json; the file is not "
            "kept; keep "
            "it with --check none"
        )
    return fidelity


def _check_tokens(file: LlamaCppBackend, source: TransformersTokens, name: Path) -> None:
    texts = [(text, False) for text in [*TEXTS, *_added_tokens(source)]]
    for text, special in [*texts, (TEXTS[0], True)]:  # the last with what begins a text
        (source_ids,), (file_ids,) = source.encode([text], special=special), file.tokens.encode([text], special=special)
        if source_ids.tolist() == file_ids.tolist():
            continue
        shorter = min(len(source_ids), len(file_ids))
        position = next((k for k in range(shorter) if source_ids[k] != file_ids[k]), shorter)
        parts = [
            tokens.decode(ids[position : position + 3].tolist(), special=True)
            for tokens, ids in ((source, source_ids), (file.tokens, file_ids))
        ]
        raise ExportError(
            f"{name}: llama.cpp reads {text!r} as other tokens than the model's tokenizer, from token {position} on "
            f"({parts[1]!r} instead of {parts[0]!r}); such a file answers badly, so it is not kept; keep it with "
            "--check "
            "none"
        )


def _added_tokens(source: TransformersTokens) -> list[str]:
    """The tokens that a chat format is written in, and the like, special ones first."""
    rows = source.tokenizer.get_added_vocab()
    special = set(source.tokenizer.all_special_tokens)
    return sorted(rows, key=lambda token: (token not in special, rows[token]))[:_ADDED]


def _fidelity(file_logits: list[np.ndarray], source_logits: list[np.ndarray]) -> Fidelity:
    """Logits of each text. Padding that only one of the two has is left out."""
    divergence, same_top, count, deviations = 0.0, 0, 0, []
    for file_rows, source_rows in zip(file_logits, source_logits, strict=True):
        width = min(file_rows.shape[1], source_rows.shape[1])
        p, q = (torch.from_numpy(rows[:, :width]).double().log_softmax(-1) for rows in (source_rows, file_rows))
        divergence += float((p.exp() * (p - q)).sum())
        same_top += int((p.argmax(-1) == q.argmax(-1)).sum())
        count += len(file_rows)
        expected, computed = (torch.from_numpy(rows[:, :width]).double() for rows in (source_rows, file_rows))
        spread, error = (x - x.mean(-1, keepdim=True) for x in (expected, computed - expected))
        deviations += (error.norm(dim=-1) / spread.norm(dim=-1)).tolist()
    return Fidelity(count, divergence / count, same_top / count, float(np.median(deviations)))
