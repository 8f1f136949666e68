"""Files of weights in the safetensors format, and indices of shards."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.builders import HIDDEN, Tensor, numbers, recipe, safetensors, weights, with_header, write_model
from tests.hostile.corpus.values import RAW, WRONG
from tests.hostile.fork import EITHER, TAKEN, Case

FILE = "model.safetensors"
_MERGE = ("merge", "r.yml", "out", "-q")


def pair(content: bytes, **files: bytes | str | None) -> Callable[[Path], None]:
    """A good model and one whose weights are `content`, and a recipe of both."""

    def build(folder: Path) -> None:
        write_model(folder / "good", 0)
        write_model(folder / "bad", 1, model__safetensors=content, **files)
        (folder / "r.yml").write_text(recipe("good", "bad"))

    return build


def cases() -> Iterator[Case]:
    whole = safetensors(weights(1))
    length = struct.unpack("<Q", whole[:8])[0]
    yield Case("a good one", pair(whole), _MERGE, "", TAKEN)
    for stop in [*range(0, 9), 20, length // 2, length + 7, length + 8, length + 9, len(whole) - 1, len(whole) // 2]:
        yield Case(f"cut at {stop}", pair(whole[:stop]), _MERGE, FILE)
    for claimed in (0, 1, length - 1, length + 1, len(whole), 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1):
        yield Case(f"header of {claimed}", pair(struct.pack("<Q", claimed) + whole[8:]), _MERGE, FILE)
    for more in (1, 7, 8, 100_000):
        yield Case(f"{more} bytes behind", pair(whole + b"\0" * more), _MERGE, FILE)
    for name, raw in RAW.items():
        yield Case(f"header: {name}", pair(with_header(raw)), _MERGE, FILE)
    yield from _entries(whole[8 : 8 + length], whole[8 + length :])
    yield from _structures()
    for place in range(8, 8 + length, max(1, length // 100)):
        yield Case(f"byte {place} changed", pair(_flipped(whole, place)), _MERGE, "", EITHER)


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x15]) + content[place + 1 :]


def _entries(header: bytes, body: bytes) -> Iterator[Case]:
    entries: dict[str, Any] = json.loads(header)
    first = next(iter(entries))
    for key in ("dtype", "shape", "data_offsets"):
        for name in WRONG:
            if name == "deep":
                continue
            changed = entries | {first: entries[first] | {key: WRONG[name]}}
            yield Case(f"{key}: {name}", pair(with_header(json.dumps(changed).encode(), body)), _MERGE, FILE)
        without = entries | {first: {k: v for k, v in entries[first].items() if k != key}}
        yield Case(f"without {key}", pair(with_header(json.dumps(without).encode(), body)), _MERGE, FILE)
    for name in WRONG:
        if name != "deep":
            changed = entries | {first: WRONG[name]}
            yield Case(f"entry: {name}", pair(with_header(json.dumps(changed).encode(), body)), _MERGE, FILE)
    for dtype in ("F4", "F8_E3M4", "C64", "f32", "float32", "F32 ", "I4", "U128", "BF16", "F64", "I32", "BOOL"):
        changed = entries | {first: entries[first] | {"dtype": dtype}}
        yield Case(f"dtype {dtype}", pair(with_header(json.dumps(changed).encode(), body)), _MERGE, "bad")
    for shape in ([0], [40, 0], [1, 40, HIDDEN], [HIDDEN, 40], [40 * HIDDEN], [2**40, 2**40], [1] * 60, [-40, -HIDDEN]):
        changed = entries | {first: entries[first] | {"shape": shape}}
        yield Case(f"shape {shape[:4]}", pair(with_header(json.dumps(changed).encode(), body)), _MERGE, "bad")
    begin, end = entries[first]["data_offsets"]
    for offsets in (
        [end, begin],
        [begin + 4, end + 4],
        [begin, end, end],
        [-4, end - 4],
        [begin, 2**62],
        [0, 0],
        [end],
    ):
        changed = entries | {first: entries[first] | {"data_offsets": offsets}}
        yield Case(f"offsets {offsets}", pair(with_header(json.dumps(changed).encode(), body)), _MERGE, FILE)


def _structures() -> Iterator[Case]:
    tensors = weights(1)
    norm, one = "model.norm.weight", ("F32", (1,), b"\0" * 4)
    names = {
        "a layer of 30,000,000": "model.layers.30000000.x",
        "a layer of 2^63": f"model.layers.{2**63}.x",
        "a layer of many digits": f"model.layers.{'9' * 4000}.x",
        "an empty name": "",
        "a name of 100,000": "x" * 100_000,
        "control characters": "model.\x1b[2J\x00norm",
        "a path": "../../../etc/passwd",
        "a negative layer": "model.layers.-1.x",
        "another alphabet": "model.層.重み",
        "a layer too many": "model.layers.2.input_layernorm.weight",
        "a packed weight": "model.layers.0.mlp.gate_proj.qweight",
    }
    for name, tensor in names.items():
        dtype = "I32" if "packed" in name else "F32"
        yield Case(f"tensor: {name}", pair(safetensors(tensors | {tensor: (dtype, *one[1:])})), _MERGE, "bad")
    for name in ("model.embed_tokens.weight", norm, "model.layers.1.self_attn.q_proj.weight"):
        left = {key: value for key, value in tensors.items() if key != name}
        yield Case(f"without {name}", pair(safetensors(left)), _MERGE, "bad")
    for value in ("nan", "inf", "-inf"):
        content = struct.pack("<f", float(value)) + tensors[norm][2][4:]
        changed: dict[str, Tensor] = tensors | {norm: ("F32", (HIDDEN,), content)}
        yield Case(f"{value} in a weight", pair(safetensors(changed)), _MERGE, "bad")
    yield Case("no tensors", pair(safetensors({})), _MERGE, "bad")
    yield Case("nothing but metadata", pair(with_header(b'{"__metadata__": {"format": "pt"}}')), _MERGE, "bad")
    half = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}} | {
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}).encode()  # fmt: skip
    yield Case("tensors share bytes", pair(with_header(half, b"\0" * 24)), _MERGE, FILE)
    hole = half.replace(b"[8, 24]", b"[24, 40]")
    yield Case("a hole", pair(with_header(hole, b"\0" * 40)), _MERGE, FILE)
    twice = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    yield Case("a name twice", pair(with_header(twice, b"\0" * 4)), _MERGE, FILE)
    many = "{" + ",".join(f'"t{n}":1' for n in range(100_000)) + ',"t99999":1}'
    yield Case("100,000 names and one twice", pair(with_header(many.encode())), _MERGE, FILE)
    zeros = {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(20_000)}
    yield Case("20,000 empty tensors", pair(with_header(json.dumps(zeros).encode())), _MERGE, "bad")
    other = {norm: ("F32", (HIDDEN + 1,), numbers(HIDDEN + 1, 1))}
    yield Case("another width", pair(safetensors(tensors | other)), _MERGE, "bad")


def index_cases() -> Iterator[Case]:
    """model.safetensors.index.json beside two shards."""
    tensors = weights(1)
    names = list(tensors)
    shards = {
        "model-00001-of-00002.safetensors": {name: tensors[name] for name in names[:10]},
        "model-00002-of-00002.safetensors": {name: tensors[name] for name in names[10:]},
    }
    right = {name: shard for shard, held in shards.items() for name in held}

    def build(content: bytes, left_out: str | None = None) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            write_model(folder / "good", 0)
            write_model(folder / "bad", 1, model__safetensors=None)
            for shard, held in shards.items():
                if shard != left_out:
                    (folder / "bad" / shard).write_bytes(safetensors(held))
            (folder / "bad/model.safetensors.index.json").write_bytes(content)
            (folder / "r.yml").write_text(recipe("good", "bad"))

        return make

    index = "index.json"
    yield Case("a good one", build(json.dumps({"weight_map": right}).encode()), _MERGE, "", TAKEN)
    for name, raw in RAW.items():
        yield Case(name, build(raw), _MERGE, index)
    for name, value in WRONG.items():
        if name != "deep":
            yield Case(f"weight_map: {name}", build(json.dumps({"weight_map": value}).encode()), _MERGE, index)
            changed = json.dumps({"weight_map": right | {names[0]: value}}).encode()
            yield Case(f"a shard: {name}", build(changed), _MERGE, "bad")
    for shard in (
        "../good/model.safetensors",
        "/etc/passwd",
        "model.txt",
        ".",
        "..",
        "a/b.safetensors",
        "x\0.safetensors",
    ):
        changed = json.dumps({"weight_map": right | {names[0]: shard}}).encode()
        yield Case(f"shard {shard!r}", build(changed), _MERGE, index)
    swapped = {name: next(s for s in shards if s != shard) for name, shard in right.items()}
    yield Case("all swapped", build(json.dumps({"weight_map": swapped}).encode()), _MERGE, "bad")
    one = right | {names[0]: right[names[-1]]}
    yield Case("one swapped", build(json.dumps({"weight_map": one}).encode()), _MERGE, "bad")
    more = right | {"model.layers.0.more": right[names[0]]}
    yield Case("a tensor that is not there", build(json.dumps({"weight_map": more}).encode()), _MERGE, "bad")
    for shard in shards:
        whole = json.dumps({"weight_map": right}).encode()
        yield Case(f"without {shard}", build(whole, shard), _MERGE, index)
    twice = json.dumps({"weight_map": right})[:-2] + f', "{names[0]}": "{right[names[-1]]}"' + "}}"
    yield Case("a tensor twice", build(twice.encode()), _MERGE, index)
