"""What training frameworks put in front of tensor names or into them, and how a class's own prefix should be."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

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


# Prefixes that classes put around each other, in any order: `model.language_model.` is `language_model.model.`.
_AROUND = {"base_model", "model", "language_model", "module", "transformer", "gpt_neox", "backbone"}
_AROUND |= {"bert", "roberta", "distilbert", "deberta", "electra", "xlm_roberta", "mpnet", "modernbert"}
_OUTPUT = ("lm_head.", "embed_out.", "score.")
_PARTS = re.compile(
    r"(layers|h|block|blocks|norm|final_norm|final_layer_?norm|ln_f|norm_f|embed_tokens|word_embeddings\w*|wte|wpe|embed_in"
    r"|embed_positions|project_in|project_out|output_projection|layer_norm|rotary\w*|emb_dropout|version|attn_bias|freqs_cis|rope)\b"
)


def unwrap(names: Iterable[str]) -> dict[str, str]:
    """Plain name -> name in the file: wrappers removed, the class's own prefix as it should be. Raises ValueError where
    two names become one."""
    plain = {name: name for name in names}
    for wrapper in _INSIDE:
        plain = {name: short.replace(wrapper, "") for name, short in plain.items()}
    for wrapper in _IN_FRONT:
        while plain and all(short.startswith(wrapper) for short in plain.values()):
            plain = {name: short.removeprefix(wrapper) for name, short in plain.items()}
    for marker, remove, add in _PREFIXES:
        if marker in plain.values() and (not add or _is_text_model(plain.values(), marker)):
            plain = {
                name: short if short.startswith(_OUTPUT) else add + short.removeprefix(remove)
                for name, short in plain.items()
            }
            break
    unwrapped: dict[str, str] = {}
    for name, short in plain.items():
        if short in unwrapped:
            raise ValueError(f"tensors {unwrapped[short]!r} and {name!r} are both {short!r}")
        unwrapped[short] = name
    return unwrapped


def _is_text_model(names: Iterable[str], marker: str) -> bool:
    """Whether all names are those that a language model has behind the prefix of its class: one that has other parts
    beside them has no prefix at all."""
    inside = "decoder." if marker.startswith("decoder.") else ""
    return all(
        name.startswith(_OUTPUT) or (name.startswith(inside) and _PARTS.match(name.removeprefix(inside)))
        for name in names
    )


def match_names(names: Iterable[str], others: Collection[str]) -> dict[str, str]:
    """Name -> the one of `others` that is the same but for the prefixes of classes around it."""
    cores: dict[str, list[str]] = {}
    for name in others:
        cores.setdefault(core_name(name), []).append(name)
    matched = {}
    for name in names:
        if name in others:
            matched[name] = name
        elif len(same := cores.get(core_name(name), [])) == 1:
            matched[name] = same[0]
    return matched


def core_name(name: str) -> str:
    """A name without the prefixes of classes in front of it."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _AROUND:
        parts.pop(0)
    return ".".join(parts)


def without_prefix(names: Iterable[str]) -> dict[str, str]:
    """Name without the prefix of its class -> name with it; the way back from what `unwrap` adds."""
    names = list(names)
    prefix = next((add for marker, _, add in _PREFIXES if add and add + marker in names), "")
    return {name.removeprefix(prefix): name for name in names}
