"""What `data.pkl` of a PyTorch file says about tensors, read without running it.

The pickle's operations are walked one by one. Those that a state dict needs make dictionaries, numbers and plain
descriptions; any other operation and any other name is refused. Source:
https://github.com/python/cpython/blob/3.11/Lib/pickletools.py and torch/serialization.py.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from weightsmith.errors import CheckpointError, shown

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
# What training checkpoints hold beside weights: names of dtypes.
_DTYPES = {
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "float",
    "half",
}
_LARGEST = 1 << 62  # elements
_MAX_RANK = 16  # dimensions
_MAX_DEPTH = 16  # tuples in each other


@dataclass(frozen=True, slots=True)
class StorageDtype:
    """A storage's dtype, as the safetensors format spells it."""

    dtype: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes `data/KEY` of the archive."""

    key: str
    dtype: str


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage: offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickle(content: bytes) -> Any:
    """Dictionaries, lists, texts, numbers and `StoredTensor`s. Raises CheckpointError for operations and names that
    weights do not need, and ValueError and its like for what is damaged."""
    return _Machine().run(content)


class _Mark:
    """Where the items of a tuple, list or dictionary begin on the stack."""


_MARK = _Mark()
_ORDERED_DICT, _REBUILD, _PARAMETER, _SIZE = object(), object(), object(), object()
_NAMES = {
    ("collections", "OrderedDict"): _ORDERED_DICT,
    ("torch._utils", "_rebuild_tensor_v2"): _REBUILD,
    ("torch._utils", "_rebuild_tensor"): _REBUILD,
    ("torch._utils", "_rebuild_parameter"): _PARAMETER,
    ("torch._utils", "_rebuild_parameter_with_state"): _PARAMETER,
    ("torch", "Size"): _SIZE,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_SKIPPED = ("PROTO", "FRAME")
_VALUES = (
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINSTRING",
    "SHORT_BINSTRING",
)
_PUTS, _GETS = ("BINPUT", "LONG_BINPUT", "PUT"), ("BINGET", "LONG_BINGET", "GET")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for operation, argument, _ in pickletools.genops(content):
            name = operation.name
            if name == "STOP":
                return self.stack.pop()
            if name in _VALUES:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _PUTS:
                self.memo[int(str(argument))] = self.stack[-1]
            elif name in _GETS:
                self.stack.append(self.memo[int(str(argument))])
            elif name == "GLOBAL":
                self.stack.append(_named(*str(argument).split(" ", 1)))
            elif step := _STEPS.get(name):
                step(self)
            elif name not in _SKIPPED:
                raise CheckpointError(f"asks for the operation {name}, which weights do not need and which is not done")
        raise ValueError("it ends before it is whole")

    def items(self) -> list[Any]:
        """What lies above the last mark, which is removed."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("an item without a beginning")
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found

    def take(self, count: int) -> list[Any]:
        """The last `count` items, which are removed."""
        if len(self.stack) < count:
            raise ValueError("an operation without its operands")
        found = self.stack[-count:]
        del self.stack[-count:]
        return found

    def push_tuple(self, items: list[Any]) -> None:
        made = tuple(items)
        _check_depth(made, _MAX_DEPTH)
        self.stack.append(made)

    def push_dict(self, items: list[Any]) -> None:
        self.stack.append({})
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("entries of something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | bytes | None):
                raise ValueError(f"a key of the type {type(key).__name__}")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items of something that is no list")
        self.stack[-1].extend(items)

    def stack_global(self) -> None:
        module, name = self.take(2)
        self.stack.append(_named(str(module), str(name)))

    def reduce(self) -> None:
        maker, arguments = self.take(2)
        if not isinstance(arguments, tuple):
            raise ValueError("arguments that are no tuple")
        self.stack.append(_made(maker, arguments))

    def persistent(self) -> None:
        (identity,) = self.take(1)
        tag, dtype, key = identity[:3]
        if tag != "storage" or not isinstance(dtype, StorageDtype) or not isinstance(key, str):
            raise ValueError("an unknown kind of storage")
        self.stack.append(Storage(key, dtype.dtype))

    def build(self) -> None:
        """The attributes of an OrderedDict (`_metadata` of a state dict), which are not needed."""
        self.take(1)
        if type(self.stack[-1]) is not dict:
            raise CheckpointError("asks for the operation BUILD, which weights do not need and which is not done")


_STEPS: Mapping[str, Callable[[_Machine], object]] = {
    "MARK": lambda machine: machine.stack.append(_MARK),
    "EMPTY_DICT": lambda machine: machine.stack.append({}),
    "EMPTY_LIST": lambda machine: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine: machine.stack.append(()),
    "TUPLE": lambda machine: machine.push_tuple(machine.items()),
    "TUPLE1": lambda machine: machine.push_tuple(machine.take(1)),
    "TUPLE2": lambda machine: machine.push_tuple(machine.take(2)),
    "TUPLE3": lambda machine: machine.push_tuple(machine.take(3)),
    "DICT": lambda machine: machine.push_dict(machine.items()),
    "LIST": lambda machine: machine.stack.append(machine.items()),
    "SETITEM": lambda machine: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine: machine.set_items(machine.items()),
    "APPEND": lambda machine: machine.append(machine.take(1)),
    "APPENDS": lambda machine: machine.append(machine.items()),
    "MEMOIZE": lambda machine: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BINPERSID": _Machine.persistent,
    "BUILD": _Machine.build,
}


def _named(module: str, name: str) -> Any:
    if (module, name) in _NAMES:
        return _NAMES[module, name]
    if module in ("torch", "torch.storage") and name in _STORAGES:
        return StorageDtype(_STORAGES[name])
    if module == "torch" and name in _DTYPES:
        return name
    asked = shown(f"{module}.{name}")[1:-1]
    raise CheckpointError(f"asks for {asked}, which weights do not need and which is not run")


def _made(maker: Any, arguments: tuple[Any, ...]) -> Any:
    if maker is _ORDERED_DICT:
        return dict(*arguments)
    if maker is _PARAMETER:
        return _tensor_in(arguments)
    if maker is _SIZE:
        return _sizes(*arguments)
    if maker is not _REBUILD:
        raise ValueError("a call of something that cannot be called")
    storage, offset, shape, strides = arguments[:4]
    shape, strides = _sizes(shape), _sizes(strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides) or _sizes((offset,)) != (offset,):
        raise ValueError("a tensor without a storage")
    return StoredTensor(storage, offset, shape, strides)


def _tensor_in(arguments: tuple[Any, ...]) -> StoredTensor:
    if not arguments or not isinstance(arguments[0], StoredTensor):
        raise ValueError("a parameter without a tensor")
    return arguments[0]


def _sizes(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, tuple | list) or len(numbers) > _MAX_RANK:
        raise ValueError("sizes that are no list of a few numbers")
    if not all(type(n) is int and 0 <= n < _LARGEST for n in numbers):
        raise ValueError("sizes, strides and offsets are non-negative integers")
    return tuple(numbers)


def _check_depth(value: tuple[Any, ...], levels: int) -> None:
    if levels == 0:
        raise ValueError("tuples that are nested too deep")
    for item in value:
        if type(item) is tuple and item:
            _check_depth(item, levels - 1)
