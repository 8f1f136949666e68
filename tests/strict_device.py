"""A device as strict as a card: no operation takes one of its tensors and one of the processor's, and numpy sees none.

`cpu:0` is torch's processor, and forgives what a card refuses. The tensors of `strict:0` and `strict:1` hold one of the
processor's, where everything is computed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

NAME = "strict"
_aten = torch.ops.aten
_FROM_THE_PROCESSOR = {_aten.copy_.default, _aten._to_copy.default, _aten.index.Tensor, _aten.index_put_.default}


class StrictTensor(torch.Tensor):
    """[as `held`], on `device`."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> StrictTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=device,
        )
        tensor.held = held
        return tensor

    def __init__(self, held: torch.Tensor, device: torch.device) -> None: ...

    def __repr__(self, **_: Any) -> str:
        return f"StrictTensor({self.held})"

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.held.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values, structure = pytree.tree_flatten((args, kwargs or {}))
        there = [value for value in values if isinstance(value, StrictTensor)]
        devices = {tensor.device for tensor in there}
        here = [v for v in values if isinstance(v, torch.Tensor) and not isinstance(v, StrictTensor) and v.dim()]
        if len(devices) > 1 or (here and operation not in _FROM_THE_PROCESSOR):
            raise RuntimeError(f"{operation}: tensors on {devices | {tensor.device for tensor in here}}")
        named = next((value for value in values if isinstance(value, torch.device)), None)
        result = operation(*_held(pytree.tree_unflatten(values, structure)[0]), **_held(kwargs or {}))
        if operation is _aten.copy_.default:
            return args[0]
        return _on(named or devices.pop(), result, {id(tensor.held): tensor for tensor in there})


def _held(values: Any) -> Any:
    def of(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value.held if isinstance(value, StrictTensor) else value

    return pytree.tree_map(of, values)


def _on(device: torch.device, values: Any, known: dict[int, StrictTensor]) -> Any:
    """`values` on `device`; a tensor that was changed in place is the one that it was."""

    def of(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        tensor = known.get(id(value))
        return tensor if tensor is not None and tensor.shape == value.shape else StrictTensor(value, _numbered(device))

    return values if device.type != NAME else pytree.tree_map(of, values)


def _numbered(device: Any) -> torch.device:
    return torch.device(NAME, torch.device(device).index or 0)


def _empty(size: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> torch.Tensor:
    return StrictTensor(torch.empty(size, dtype=dtype), _numbered(device))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> torch.Tensor:
    return StrictTensor(torch.empty_strided(size, stride, dtype=dtype), _numbered(device))


def _copy(source: torch.Tensor, target: StrictTensor, non_blocking: bool = False) -> torch.Tensor:
    target.held.copy_(source.held if isinstance(source, StrictTensor) else source)
    return target


class _Module:
    """`torch.strict`: nothing there is the default of anything."""

    is_initialized = staticmethod(lambda: True)
    is_available = staticmethod(lambda: False)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 2)
    manual_seed_all = staticmethod(lambda seed: None)
    _is_in_bad_fork = staticmethod(lambda: False)


@cache
def register_strict_device() -> torch.library.Library:
    """Have torch know `strict:0` and `strict:1`, for the rest of this process."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    class Hook(torch._C._acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return False

        def is_built(self) -> bool:
            return True

        def has_primary_context(self, number: int) -> bool:
            return True

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module(), hook=Hook())
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy, "PrivateUse1")
    return library
