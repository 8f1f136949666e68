"""What training frameworks put into names, and buffers that are no weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from weightsmith.architecture.tied import OUTPUTS, is_tied
from weightsmith.checkpoint.tensor import TensorInfo

# torch.compile, FSDP, activation checkpointing: anywhere in a name; peft, DDP: in front of every name
_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_IN_FRONT = ("base_model.model.", "module.")
# Some families were published without the prefix of their class, or saved with one too many.
_PREFIXES = (
    ("embed_tokens.weight", "", "model."),
    ("word_embeddings.weight", "", "transformer."),
    ("wte.weight", "", "transformer."),
    ("embed_in.weight", "", "gpt_neox."),
    ("decoder.embed_tokens.weight", "", "model."),
    ("model.model.embed_tokens.weight", "model.", ""),
)
_OUTPUT = ("lm_head.", "embed_out.")
_BUFFER = re.compile(r"(.*\.)?(rotary_(pos_)?emb\.inv_freq|masked_bias|rope\.freqs|decoder\.version)")
_CAUSAL_MASK = re.compile(r".*\.(attn|attention|self_attention)\.bias")  # four dimensions; a real bias has one


def unwrap(names: Iterable[str]) -> dict[str, str]:
    """Plain name -> name in the file: wrappers removed, the class's own prefix as it should be. Raises ValueError where two names become one."""
    plain = {name: name for name in names}
    for wrapper in _INSIDE:
        plain = {name: short.replace(wrapper, "") for name, short in plain.items()}
    for wrapper in _IN_FRONT:
        while plain and all(short.startswith(wrapper) for short in plain.values()):
            plain = {name: short.removeprefix(wrapper) for name, short in plain.items()}
    for marker, remove, add in _PREFIXES:
        if marker in plain.values():
            plain = {
                name: short if short.startswith(_OUTPUT) else add + short.removeprefix(remove)
                for name, short in plain.items()
            }
            break
    found: dict[str, str] = {}
    for name, short in plain.items():
        if short in found:
            raise ValueError(f"tensors {found[short]!r} and {name!r} are both {short!r}")
        found[short] = name
    return found


def without_prefix(names: Iterable[str]) -> dict[str, str]:
    """Name without the prefix of its class -> name with it; the way back from what `unwrap` adds."""
    names = list(names)
    prefix = next((add for marker, _, add in _PREFIXES if add and add + marker in names), "")
    return {name.removeprefix(prefix): name for name in names}


def is_buffer(name: str, info: TensorInfo) -> bool:
    """Whether older versions saved this although it is computed or counted: rotary frequencies, causal masks, versions."""
    return bool(_BUFFER.fullmatch(name)) or (len(info.shape) == 4 and bool(_CAUSAL_MASK.fullmatch(name)))


def tied_aliases(aliases: Mapping[str, str], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Output matrices that are the embedding under a second name, where config.json ties the two."""
    if not is_tied(config):
        return ()
    return tuple(name for pair in aliases.items() for name in pair if name.endswith(OUTPUTS))
