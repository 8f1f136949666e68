"""PyTorch files: what their pickles ask for, and what their archives claim."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.builders import (
    described,
    integer,
    numbers_tuple,
    recipe,
    state_dict,
    text,
    torch_archive,
    torch_weights,
    write_model,
)
from tests.hostile.fork import EITHER, TAKEN, Case

FILE = "pytorch_model.bin"
_MERGE = ("merge", "r.yml", "out", "-q")
_NAMES = (
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("subprocess", "call"),
    ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"), ("builtins", "open"), ("__builtin__", "eval"),
    ("builtins", "__import__"), ("importlib", "import_module"), ("pickle", "loads"), ("torch", "load"),
    ("torch.hub", "load"), ("torch._utils", "_rebuild_tensor_v3"), ("torch.storage", "_load_from_bytes"),
    ("collections", "defaultdict"), ("collections", "deque"), ("operator", "attrgetter"), ("functools", "partial"),
    ("numpy", "load"), ("numpy.core.multiarray", "_reconstruct"), ("codecs", "decode"), ("runpy", "run_path"),
    ("shutil", "rmtree"), ("webbrowser", "open"), ("socket", "socket"), ("argparse", "Namespace"), ("torch", "Tensor"),
    ("weightsmith.checkpoint.formats.pickled_tensors", "StoredTensor"), ("a.b", "c\x1b[31m"), ("x" * 5000, "y"),
)  # fmt: skip
_OPERATIONS = {
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
    "NEWOBJ_EX": b"ccollections\nOrderedDict\n)}\x92",
    "INST": b"(icollections\nOrderedDict\n",
    "OBJ": b"(ccollections\nOrderedDict\no",
    "EXT1": b"\x82\x01",
    "EXT4": b"\x84\x01\0\0\0",
    "BUILD of a tensor": described("0", (1,), (1,)) + b"}b",
    "BUILD of a dtype": b"ctorch\nFloatStorage\n}b",
    "BUILD of a tuple": b")}b",
    "PERSID": b"Pstorage\n",
    "REDUCE of a text": text("x") + b")R",
    "REDUCE of a dtype": b"ctorch\nFloatStorage\n)R",
    "REDUCE without a tuple": b"ccollections\nOrderedDict\n}R",
    "FROZENSET": b"(\x91",
    "EMPTY_SET": b"\x8f",
    "BYTEARRAY8": b"\x96\x01\0\0\0\0\0\0\0x",
    "NEXT_BUFFER": b"\x97",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "an unknown one": b"\xff",
    "POP of nothing": b"0000000",
    "a memo that is not there": b"h\x63",
    "a text of 4 GB": b"X\xff\xff\xff\xff",
    "a text of 2^63": b"\x8d" + struct.pack("<Q", 2**63),
    "a memo of 117,440,512": b"Nr\0\0\0\x07",
    "SETITEMS without a mark": b"Nu",
    "APPENDS to nothing": b"(Ne",
}


def file(content: bytes) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        write_model(folder / "good", 0)
        write_model(folder / "bad", 1, model__safetensors=None, pytorch_model__bin=content)
        (folder / "r.yml").write_text(recipe("good", "bad"))

    return build


def cases() -> Iterator[Case]:
    made, storages = torch_weights(1)
    pickle = state_dict(made)
    whole = torch_archive(pickle, storages)
    yield Case("a good one", file(whole), _MERGE, "", TAKEN)
    for stop in [*range(0, 40, 4), 100, len(whole) // 2, len(whole) - 1, len(whole) - 22, len(whole) - 23]:
        yield Case(f"cut at {stop}", file(whole[:stop]), _MERGE, FILE)
    for stop in range(0, len(pickle), max(1, len(pickle) // 60)):
        yield Case(f"pickle cut at {stop}", file(torch_archive(pickle[:stop], storages)), _MERGE, FILE)
    for place in range(0, len(pickle), max(1, len(pickle) // 150)):
        changed = pickle[:place] + bytes([pickle[place] ^ 0x15]) + pickle[place + 1 :]
        yield Case(f"byte {place} of the pickle", file(torch_archive(changed, storages)), _MERGE, "", EITHER)
    for module, name in _NAMES:
        call = f"c{module}\n{name}\n".encode() + b"(" + text("touch pwned") + b"tR"
        with_call = state_dict(made)[:-2] + text("x") + call + b"u."
        yield Case(f"{module[:40]}.{name}", file(torch_archive(with_call, storages)), _MERGE, FILE)
        bare = b"\x80\x02" + f"c{module}\n{name}\n".encode() + b"."
        yield Case(f"{module[:40]}.{name} alone", file(torch_archive(bare, storages)), _MERGE, FILE)
    for name, operation in _OPERATIONS.items():
        yield Case(name, file(torch_archive(b"\x80\x02" + operation + b".", storages)), _MERGE, FILE)
    for name, content in {
        "3,000,000 tuples": b"\x80\x02}(N" + b"\x85" * 3_000_000 + b"Nu.",
        "tuples as a key": b"\x80\x02}(" + b"N" + b"\x85" * 2000 + b"Nu.",
        "a dictionary in itself": b"\x80\x02}q\0X\x05\0\0\0modelh\0s.",
        "a list in itself": b"\x80\x02]q\0h\0a.",
        "100,000 dictionaries in each other": b"\x80\x02"
        + (b"}" + text("model")) * 100_000
        + b"N"
        + b"s" * 100_000
        + b".",
        "nothing": b"",
        "no STOP": b"\x80\x02}",
        "protocol 5": b"\x80\x05}.",
        "protocol 200": b"\x80\xc8}.",
        "a number": b"\x80\x02K\x01.",
        "a list of tensors": b"\x80\x02](" + b"".join(made.values()) + b"e.",
    }.items():
        yield Case(name, file(torch_archive(content, storages)), _MERGE, FILE)
    yield from _tensors(made, storages)
    yield from _archives(pickle, storages)


def _tensors(made: dict[str, bytes], storages: dict[str, bytes]) -> Iterator[Case]:
    name = "model.norm.weight"
    key = str(list(made).index(name))
    for what, call in {
        "a shape beyond its storage": described(key, (17,), (1,)),
        "an offset beyond its storage": described(key, (16,), (1,), offset=1),
        "an offset of 2^62": described(key, (16,), (1,), offset=2**62),
        "a negative offset": described(key, (16,), (1,), offset=-1),
        "strides of 0": described(key, (10**11,), (0,)),
        "negative strides": described(key, (16,), (-1,)),
        "strides that skip": described(key, (8,), (2,)),
        "more strides than sizes": described(key, (16,), (1, 1)),
        "a negative size": described(key, (-16,), (1,)),
        "a size of 2^63": described(key, (2**63,), (1,)),
        "100 dimensions": described(key, (1,) * 100, (1,) * 100),
        "a storage that is not there": described("99", (16,), (1,)),
        "a storage beside the archive's": described("../../0", (16,), (1,)),
        "no storage": b"ctorch._utils\n_rebuild_tensor_v2\n(N" + integer(0) + numbers_tuple((1,)) * 2 + b"tR",
        "too few arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        "a parameter without a tensor": b"ctorch._utils\n_rebuild_parameter\n(NtR",
        "sizes that are texts": b"ctorch\nSize\n(" + text("x") + b"tR",
    }.items():
        yield Case(f"tensor: {what}", file(torch_archive(state_dict(made | {name: call}), storages)), _MERGE, "bad")
    views = {f"model.layers.0.view{n}": described(key, (16,), (1,), offset=0) for n in range(3)}
    views |= {f"model.layers.0.part{n}": described(key, (15,), (1,), offset=n) for n in range(2)}
    yield Case("views that share elements", file(torch_archive(state_dict(made | views), storages)), _MERGE, "bad")


def _archives(pickle: bytes, storages: dict[str, bytes]) -> Iterator[Case]:
    def archive(write: Callable[[zipfile.ZipFile], None], compression: int = zipfile.ZIP_STORED) -> bytes:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", compression) as opened:
            write(opened)
        return content.getvalue()

    def entries(opened: zipfile.ZipFile) -> None:
        opened.writestr("archive/data.pkl", pickle)
        for key, value in storages.items():
            opened.writestr(f"archive/data/{key}", value)

    def bomb(opened: zipfile.ZipFile) -> None:
        opened.writestr("archive/data.pkl", b"\0" * 50_000_000)

    def two(opened: zipfile.ZipFile) -> None:
        entries(opened)
        opened.writestr("other/data.pkl", pickle)

    def big_endian(opened: zipfile.ZipFile) -> None:
        entries(opened)
        opened.writestr("archive/byteorder", b"big")

    yield Case("a compressed archive", file(archive(entries, zipfile.ZIP_DEFLATED)), _MERGE, FILE)
    yield Case("a bomb", file(archive(bomb, zipfile.ZIP_DEFLATED)), _MERGE, FILE)
    yield Case("no entries", file(archive(lambda opened: None)), _MERGE, FILE)
    yield Case("two pickles", file(archive(two)), _MERGE, FILE)
    yield Case("no pickle", file(archive(lambda opened: opened.writestr("a", b"b"))), _MERGE, FILE)
    yield Case("written on a big-endian machine", file(archive(big_endian)), _MERGE, FILE)
    whole = archive(entries)
    place = whole.rindex(b"PK\x01\x02")  # the last entry of the directory
    for offset, count in ((20, 4), (24, 4), (42, 4), (28, 2), (10, 2)):
        changed = whole[: place + offset] + b"\xff" * count + whole[place + offset + count :]
        yield Case(f"directory: {count} bytes at {offset}", file(changed), _MERGE, FILE, EITHER)
    first = whole.index(b"PK\x01\x02")
    same = whole[: place + 42] + whole[first + 42 : first + 46] + whole[place + 46 :]
    yield Case("two entries in one place", file(same), _MERGE, FILE)
