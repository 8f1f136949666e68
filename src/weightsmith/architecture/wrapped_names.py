"""What training frameworks put into names, and buffers that are no weights."""

from __future__ import annotations

import re
from collections.abc import Iterable

from weightsmith.checkpoint.tensor import TensorInfo

# torch.compile, FSDP, activation checkpointing: anywhere in a name; peft, DDP: in front of every name
_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_IN_FRONT = ("base_model.model.", "module.")
_BUFFER = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|masked_bias)")
_CAUSAL_MASK = re.compile(r".*\.(attn|attention|self_attention)\.bias")  # four dimensions; a real bias has one


def unwrap(names: Iterable[str]) -> dict[str, str]:
    """Plain name -> name in the file. Raises ValueError where two names become one."""
    plain = {name: name for name in names}
    for wrapper in _INSIDE:
        plain = {name: short.replace(wrapper, "") for name, short in plain.items()}
    for wrapper in _IN_FRONT:
        while plain and all(short.startswith(wrapper) for short in plain.values()):
            plain = {name: short.removeprefix(wrapper) for name, short in plain.items()}
    found: dict[str, str] = {}
    for name, short in plain.items():
        if short in found:
            raise ValueError(f"tensors {found[short]!r} and {name!r} are both {short!r}")
        found[short] = name
    return found


def is_buffer(name: str, info: TensorInfo) -> bool:
    """Whether older versions saved this although it is computed: rotary frequencies, causal masks."""
    return bool(_BUFFER.fullmatch(name)) or (len(info.shape) == 4 and bool(_CAUSAL_MASK.fullmatch(name)))
