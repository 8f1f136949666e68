"""Settings that config.json gives layer by layer, for layers in another order: lists follow, numbers of layers are
counted anew, and a period that the new order breaks is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Lists of layer numbers.
_NUMBERS = (
    "mlp_only_layers",
    "moe_layers",
    "cross_attention_layers",
    "attn_layer_indices",
    "hybrid_layer_ids",
    "full_attn_idxs",
    "global_attention_layers",
    "dense_layers",
)
# The first n layers are of one kind.
_FIRST = ("first_k_dense_replace", "num_dense_layers", "num_hash_layers")
# The last n layers are of one kind.
_LAST = ("num_kv_shared_layers",)
# (period, offset, offset where none is given): layers whose number is offset more than a multiple of the period.
_PERIODS = (
    ("attn_layer_period", "attn_layer_offset", 0),
    ("expert_layer_period", "expert_layer_offset", 0),
    ("decoder_sparse_step", "", -1),
    ("moe_layer_interval", "moe_layer_start_index", 0),
    ("moe_layer_freq", "", 0),
)
# Lists that no layer owns, however long they are.
_NO_LAYERS = ("architectures", "_token_id", "_token_ids", "_tokens", "conv_", "tdnn_", "xvector_", "_mean", "_std")


def reordered(part: Mapping[str, Any], depth: int, taken: Sequence[int]) -> tuple[dict[str, Any], str | None]:
    """(the settings of the layers `taken` out of `depth`, what config.json cannot say of them)."""
    changed: dict[str, Any] = {}
    for key, value in part.items():
        if key in _NUMBERS and isinstance(value, list):
            changed[key] = [new for new, old in enumerate(taken) if old in value]
        elif is_per_layer(key, value, depth):
            changed[key] = _of_layers(value, taken)
        elif key in (*_FIRST, *_LAST) and type(value) is int and value:
            ordered = taken if key in _FIRST else taken[::-1]
            special = [old < value if key in _FIRST else old >= depth - value for old in ordered]
            count = special.index(False) if False in special else len(special)
            if any(special[count:]):
                which = "first" if key in _FIRST else "last"
                return {}, f"{key} is {value}: of layers in this order, those of that kind are not the {which} ones"
            if key in _LAST and tuple(taken[len(taken) - count :]) != tuple(range(depth - value, depth)) and count:
                return {}, f"{key} is {value}: these layers belong together and cannot be taken apart"
            changed[key] = count
        elif key == "block_types" and isinstance(value, list) and value:  # RecurrentGemma repeats them
            changed[key] = [value[old % len(value)] for old in taken]
        elif key == "attention_types" and isinstance(value, list):  # GPT-Neo: [[[kinds], times], ...]
            kinds = [kind for kinds, times in value for _ in range(times) for kind in kinds]
            if len(kinds) == depth:
                changed[key] = [[[kinds[old] for old in taken], 1]]
    for period_key, offset_key, default in _PERIODS:
        period, offset = part.get(period_key), part.get(offset_key, default) if offset_key else default
        if type(period) is int and period > 1 and type(offset) is int:
            fits = [(new - offset) % period == 0 for new in range(len(taken))]
            if fits != [(old - offset) % period == 0 for old in taken]:
                return {}, f"{period_key} is {period}: layers in this order are not of one kind in such steps"
    return changed, None


def is_per_layer(key: str, value: Any, depth: int) -> bool:
    """Whether a setting is a list with an entry for each layer, or has entries by the numbers of layers, as
    Gemma 4's `per_layer_config` of {"05": {"head_dim": 512}}."""
    if isinstance(value, dict):
        return "layer" in key and bool(value) and all(str(n).isdigit() and int(n) < depth for n in value)
    return (
        isinstance(value, list)
        and len(value) == depth
        and depth > 0
        and not any(part in key if part.endswith("_") else key.endswith(part) for part in _NO_LAYERS)
    )


def _of_layers(value: Any, taken: Sequence[int]) -> Any:
    """The setting `value`, with an entry for each layer or some, of the layers `taken`."""
    if isinstance(value, dict):
        old_entries = _by_number(value)
        digits = len(str(max(len(taken) - 1, 0)))
        entries = {f"{new:0{digits}}": old_entries[old] for new, old in enumerate(taken) if old in old_entries}
        return copy.deepcopy(entries)
    return [copy.deepcopy(value[old]) for old in taken]


def _by_number(value: Any) -> Any:
    """Comparable: "05" and 5 are the same layer."""
    return {int(number): entry for number, entry in value.items()} if isinstance(value, dict) else value


def derived_lists(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    section: Sequence[str],
    taken: Sequence[int],
    depth: int,
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> tuple[dict[str, Any], str | None]:
    """(lists that the class derives for each layer of `before` and that `after` has to spell out, what it cannot say).
    `defaults`: a configuration with all that its class adds to it."""
    old_full = part_of(defaults(before), section)
    expected = {
        key: _of_layers(value, taken)
        for key, value in old_full.items()
        if is_per_layer(key, value, depth) and key not in _NUMBERS
    }
    new_full = part_of(defaults(after), section)
    lists = {key: value for key, value in expected.items() if _by_number(new_full.get(key)) != _by_number(value)}
    if not lists:
        return {}, None
    try:
        new_full = part_of(defaults(with_part(after, section, lists)), section)
    except Exception as error:  # a class that has no such setting
        return {}, f"{next(iter(lists))} follows from other settings there: {error}"
    for key, value in expected.items():
        if _by_number(new_full.get(key)) != _by_number(value):
            return {}, f"{key} would be {new_full.get(key)} instead of {value}"
    return lists, None


def part_of(config: Mapping[str, Any], section: Sequence[str]) -> Mapping[str, Any]:
    """The part of a configuration under the keys `section`; all of it where there are none."""
    for key in section:
        config = config[key]
    return config


def with_part(config: Mapping[str, Any], section: Sequence[str], more: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with `more` in the part `section`."""
    if not section:
        return {**config, **more}
    return {**config, section[0]: with_part(config[section[0]], section[1:], more)}
