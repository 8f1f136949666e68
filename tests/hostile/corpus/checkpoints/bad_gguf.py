"""GGUF files: counts, types, sizes and offsets that cannot be."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.builders import (
    ARRAY,
    BOOL,
    FLOAT32,
    INT32,
    STRING,
    UINT32,
    UINT64,
    VOCABULARY,
    Value,
    gguf,
    gguf_metadata,
    gguf_tensors,
    gguf_text,
)
from tests.hostile.fork import EITHER, REFUSED, TAKEN, Case

FILE = "bad.gguf"
_EVALUATE = ("evaluate", FILE, "--text", "text.txt", "-o", "out", "-q")
_INSPECT, _UNIFY = ("inspect", FILE), ("unify", FILE, "out", "-q")
_OTHERS: dict[str, Value] = {
    "zero": (UINT32, 0),
    "many": (UINT32, 2**32 - 1),
    "more": (UINT64, 2**64 - 1),
    "minus one": (INT32, -1),
    "infinity": (FLOAT32, float("inf")),
    "not a number": (FLOAT32, float("nan")),
    "true": (BOOL, True),
    "text": (STRING, "x"),
    "control characters": (STRING, "\x1b[2J\0"),
    "long text": (STRING, "x" * 100_000),
    "list": (ARRAY, (UINT32, [1, 2])),
    "empty list": (ARRAY, (UINT32, [])),
    "list of texts": (ARRAY, (STRING, ["a", "a"])),
}


def file(content: bytes, size: int | None = None) -> Callable[[Path], None]:
    """`size`: that the file claims to the system, with nothing behind `content`."""

    def build(folder: Path) -> None:
        (folder / FILE).write_bytes(content)
        if size is not None:
            with (folder / FILE).open("r+b") as opened:
                opened.truncate(size)

    return build


def cases() -> Iterator[Case]:
    whole = gguf()
    tensors = gguf_tensors()
    yield Case("a good one", file(whole), _UNIFY, "", TAKEN)
    for stop in [*range(0, 32, 3), 100, 500, 1000, len(whole) // 2, len(whole) - 33, len(whole) - 2000]:
        yield Case(f"cut at {stop}", file(whole[:stop]), _INSPECT, FILE)
    for magic in (b"GGML", b"gguf", b"\0\0\0\0", b"PK\x03\x04"):
        yield Case(f"magic {magic!r}", file(magic + whole[4:]), _INSPECT, FILE)
    for version in (0, 1, 4, 2**31, 0x03000000):
        yield Case(f"version {version}", file(whole[:4] + struct.pack("<I", version) + whole[8:]), _INSPECT, FILE)
    for count in (0, 1, len(tensors) + 1, 2**20, 2**32, 2**63, 2**64 - 1):
        yield Case(f"{count} tensors", file(whole[:8] + struct.pack("<Q", count) + whole[16:]), _INSPECT, FILE)
        yield Case(f"{count} keys", file(whole[:16] + struct.pack("<Q", count) + whole[24:]), _INSPECT, FILE)
    for length in (2**20, 2**31, 2**33, 2**40, 2**63, 2**64 - 1):
        head = b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, length)
        yield Case(f"a key of {length}", file(head), _INSPECT, FILE)
        yield Case(
            f"a key of {length} in a file without content", file(head, min(length, 2**35) + 2**20), _INSPECT, FILE
        )
        for item in (UINT32, STRING, UINT64, ARRAY, 99):
            array = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + gguf_text("a") + struct.pack("<IIQ", ARRAY, item, length)
            yield Case(f"{length} values of type {item}", file(array, 2**35), _INSPECT, FILE)
    deep = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + gguf_text("a") + struct.pack("<I", ARRAY)
    yield Case("arrays in arrays", file(deep + struct.pack("<IQ", ARRAY, 1) * 50_000), _INSPECT, FILE)
    for key in gguf_metadata():
        for name, value in _OTHERS.items():
            yield Case(f"{key}: {name}", file(gguf(gguf_metadata() | {key: value})), _UNIFY, "", EITHER)
        left = {k: v for k, v in gguf_metadata().items() if k != key}
        yield Case(f"without {key}", file(gguf(left)), _UNIFY, "", EITHER)
    for name, value in _OTHERS.items():
        changed = gguf(gguf_metadata() | {"general.alignment": value})
        yield Case(f"alignment: {name}", file(changed), _UNIFY, "", EITHER)
    yield from _tensors(tensors)
    yield from _run_by_llama_cpp()
    for place in range(24, 1500, 12):
        changed = whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :]
        yield Case(f"byte {place} changed", file(changed), _UNIFY, "", EITHER)


def _run_by_llama_cpp() -> Iterator[Case]:
    """What the reader takes and llama.cpp does not, in some cases by an assertion."""
    for key, names in {
        "llama.block_count": ("zero", "many"),
        "llama.attention.layer_norm_rms_epsilon": ("not a number", "zero"),
        "llama.attention.head_count": ("zero", "many"),
        "llama.attention.head_count_kv": ("zero", "many"),
        "llama.rope.dimension_count": ("zero", "many"),
        "tokenizer.ggml.eos_token_id": ("many", "zero"),
        "tokenizer.ggml.pre": ("text", "empty list"),
    }.items():
        for name in names:
            content = gguf(_readable() | {key: _OTHERS[name]})
            yield Case(f"evaluated, {key}: {name}", _with_text(content), _EVALUATE, FILE, EITHER)
    dimensions, _, content = gguf_tensors()["output_norm.weight"]
    for kind in (1, 30):  # f16, bf16: llama.cpp multiplies norms in float32 alone
        changed = gguf_tensors() | {"output_norm.weight": (dimensions, kind, content[: len(content) // 2])}
        yield Case(f"evaluated, norm of type {kind}", _with_text(gguf(_readable(), tensors=changed)), _EVALUATE, FILE)


def _readable() -> dict[str, Value]:
    """Metadata with a vocabulary that `text.txt` is made of."""
    letters = [*"t1234", "Ġ", "Ċ"]
    tokens = [*letters, *(f"<{number}>" for number in range(VOCABULARY - len(letters)))]
    return gguf_metadata() | {"tokenizer.ggml.tokens": (ARRAY, (STRING, tokens))}


def _with_text(content: bytes) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        file(content)(folder)
        (folder / "text.txt").write_text("t1 t2 t3 t4\n" * 40)

    return build


def _tensors(tensors: dict) -> Iterator[Case]:
    first = "output_norm.weight"
    dimensions, kind, content = tensors[first]
    for other in [*range(1, 45), 99, 2**31]:
        changed = gguf(tensors=tensors | {first: (dimensions, other, content)})
        yield Case(f"type {other}", file(changed), _UNIFY, "", EITHER)
    for name, shape in {
        "none": (),
        "zero": (0,),
        "five": (2, 2, 2, 2, 2),
        "a hundred": (1,) * 100,
        "2^63": (2**63,),
        "2^32 x 2^32": (2**32, 2**32),
        "one more": (17,),
        "transposed": (1, 16),
    }.items():
        codes = EITHER if name == "transposed" else REFUSED
        changed = gguf(tensors=tensors | {first: (shape, kind, content)})
        yield Case(f"dimensions: {name}", file(changed), _UNIFY, "bad", codes)
    for offset in (1, 31, 32, 2**20, 2**40, 2**63, 2**64 - 32):
        yield Case(f"offset {offset}", file(gguf(offsets={first: offset})), _UNIFY, FILE)
    for name in ("", "x" * 100_000, "\x1b[2J", "blk.1000000000.attn_q.weight", "blk.-1.attn_q.weight", "../x"):
        changed = {(name if key == "blk.1.attn_q.weight" else key): value for key, value in tensors.items()}
        yield Case(f"tensor {name[:30]!r}", file(gguf(tensors=changed)), _UNIFY, "bad")
    for name in tensors:
        left = {key: value for key, value in tensors.items() if key != name}
        yield Case(f"without {name}", file(gguf(tensors=left)), _UNIFY, "bad", EITHER)
    yield Case("bytes behind", file(gguf() + b"\0" * 5000), _UNIFY, FILE)
    tokens = {"tokenizer.ggml.tokens": (ARRAY, (STRING, ["a"] * VOCABULARY))}
    yield Case("one token forty times", file(gguf(gguf_metadata() | tokens)), _UNIFY, "", EITHER)
