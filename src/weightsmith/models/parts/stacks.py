"""Stacks of layers: found by their numbers, known by the key of config.json that counts them.

A model has a stack for its language model, and maybe one for an encoder, a vision or an audio tower each. What a
`Sequential` numbers is no stack: `merger.mlp.0` and `merger.mlp.2` have an activation between them. Layers behind those
that config.json counts predict further tokens (DeepSeek-V3's `layers.61`); they are no part of the depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from weightsmith.errors import CheckpointError
from weightsmith.models.companion_files import config_of

LAYER = re.compile(r"^(\D*?\.)(\d+)(\..+)$")
# Layers that predict further tokens; transformers ignores them when it loads a model.
_FURTHER_TOKENS = re.compile(r"(.*\.)?(mtp|mtp_\w+|nextn|nextn_\w+|next_n_\w+)(\.|_).*")
_FURTHER_KEYS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers", "num_next_n_predict_layers")
_DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "layers", "num_blocks")
_COUNTS = re.compile(r"group|block|stage|depth|num_.*layers")  # keys that may count what is numbered
_ENCODER_KEYS = ("encoder_layers", "num_encoder_layers")
_DECODER_KEYS = ("decoder_layers", "num_decoder_layers")
_TOWERS = ("vision", "visual", "image", "audio", "speech", "vit", "vqmodel", "sam")
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "decoder", "text_encoder")


@dataclass(frozen=True)
class Stack:
    """`prefix`: what comes before the number; `numbers`: of its layers, in order; `suffixes`: what comes behind each;
    `keys`: where config.json counts them, empty where it does not."""

    prefix: str
    numbers: tuple[int, ...]
    suffixes: Mapping[int, frozenset[str]]
    keys: tuple[tuple[str, ...], ...]
    depth: int  # layers that config.json counts, else all of them
    section: tuple[str, ...] = ()  # the part of config.json that describes it

    @property
    def is_tower(self) -> bool:
        """Whether it is of another kind than text."""
        return any(part in self.prefix.lower() for part in _TOWERS)


@dataclass(frozen=True)
class Stacks:
    """All stacks of a model, by prefix."""

    stacks: Mapping[str, Stack]

    @cached_property
    def main(self) -> Stack | None:
        """The language model's, of which a recipe's `layer_range` speaks; None where there is none, or more than one,
        as in a model with an encoder and a decoder."""
        candidates = [stack for stack in self.stacks.values() if not stack.is_tower]
        if len(candidates) > 1:
            counted = [stack for stack in candidates if stack.keys]
            candidates = counted or candidates
        if not candidates:
            candidates = list(self.stacks.values())
        return candidates[0] if len(candidates) == 1 else None

    @property
    def depth(self) -> int:
        """Layers of the main stack; the deepest one's where there are several."""
        return self.main.depth if self.main else max((stack.depth for stack in self.stacks.values()), default=0)

    def layer_of(self, name: str) -> tuple[Stack, int, str] | None:
        """(stack, number, suffix) of a tensor; None where it is in no layer that config.json counts."""
        match = LAYER.match(name)
        stack = self.stacks.get(match[1]) if match else None
        if match is None or stack is None or int(match[2]) - stack.numbers[0] >= stack.depth:
            return None
        return stack, int(match[2]), match[3]

    def depth_of(self, name: str) -> float:
        """How deep a tensor lies in its stack, 0 for the first layer and 1 for the last; 0 outside of stacks."""
        place = self.layer_of(name)
        if place is None:
            return 0.0
        stack, number, _ = place
        return (number - stack.numbers[0]) / (stack.depth - 1) if stack.depth > 1 else 1.0

    def is_further(self, name: str) -> bool:
        """Whether a tensor predicts further tokens (MTP): inference without speculation does not need it."""
        if _FURTHER_TOKENS.fullmatch(name):
            return True
        match = LAYER.match(name)
        stack = self.stacks.get(match[1]) if match else None
        return match is not None and stack is not None and int(match[2]) - stack.numbers[0] >= stack.depth


def find_stacks(names: Iterable[str], config: Mapping[str, Any]) -> Stacks:
    """The stacks among the tensors `names` of a model with that config.json."""
    numbered = _by_prefix(names)
    stacks = {}
    for prefix, members in numbered.items():
        numbers = sorted(members)
        straight = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        if not straight or not (len(numbered) == 1 or _holds_modules(members.values())):
            continue
        section = _section(prefix, config)
        keys = _keys(prefix, section, config, len(numbers))
        further = _further(section, config)
        if not keys and further and len(numbers) - further > 0:
            keys = _keys(prefix, section, config, len(numbers) - further)
        depth = _value(config, keys[0]) if keys else len(numbers)
        suffixes = {number: frozenset(suffixes) for number, suffixes in members.items()}
        stacks[prefix] = Stack(prefix, tuple(numbers), suffixes, keys, depth, section)
    return Stacks(stacks)


def check_layers(path: Path, names: Iterable[str], config: Mapping[str, Any]) -> None:
    """Raises CheckpointError where a layer is missing, or config.json counts others than there are."""
    names = list(names)
    numbered = _by_prefix(names)
    for prefix, members in numbered.items():
        first = min(0 if config.get("num_hidden_layers") else 1, min(members))  # unknown families may count from one
        missing = _first_of_gaps(first, members)
        if missing and (len(numbered) == 1 or _neighbours_agree(members, missing)):
            raise CheckpointError(
                f"{path}: layer {missing[0]} is missing ({prefix}{missing[0]}.*), while layer {max(members)} is there; "
                "download the model again",
                path=path,
            )
    stacks = find_stacks(names, config)
    text = [stack for stack in stacks.stacks.values() if not stack.is_tower]
    expected = config.get("num_hidden_layers")
    if len(text) != 1 or text[0].keys or type(expected) is not int or _section(text[0].prefix, config) != ():
        return
    if (
        "image_size" in config and "vocab_size" not in config
    ):  # what an EfficientNet calls its hidden layers are no blocks of it
        return
    others = [key for key, value in config.items() if value == len(text[0].numbers) and _COUNTS.search(key)]
    if not others:
        raise CheckpointError(
            f"{path}: {config_of(path)} says {expected} layers, the weights have "
            f"{len(text[0].numbers)} ({text[0].prefix}*); the two are of different models",
            path=path,
        )


def _by_prefix(names: Iterable[str]) -> dict[str, dict[int, set[str]]]:
    """What is numbered: prefix -> number -> what comes behind it."""
    numbered: dict[str, dict[int, set[str]]] = {}
    for name in names:
        if match := LAYER.match(name):
            numbered.setdefault(match[1], {}).setdefault(int(match[2]), set()).add(match[3])
    return numbered


def _holds_modules(members: Iterable[set[str]]) -> bool:
    """Whether what is numbered has parts of its own: `.self_attn.q_proj.weight`, not `.weight`."""
    return any(suffix.count(".") > 1 for suffixes in members for suffix in suffixes)


def _first_of_gaps(first: int, members: Iterable[int]) -> list[int]:
    """The first number of each gap from `first` on; gaps may be as long as a name claims."""
    gaps, expected = [], first
    for number in sorted(members):
        if number > expected:
            gaps.append(expected)
        expected = number + 1
    return gaps


def _neighbours_agree(members: Mapping[int, set[str]], missing: Sequence[int]) -> bool:
    """Whether numbers with gaps are layers of which some are missing, and no `Sequential` with activations in it: those
    on both sides of a gap have parts in common, and one has more than a weight and a bias."""
    if not _holds_modules(members.values()):
        return False
    for number in missing:
        below = max((n for n in members if n < number), default=None)
        above = min((n for n in members if n > number), default=None)
        pair = [members[n] for n in (below, above) if n is not None]
        if max(map(len, pair)) > 2 and (len(pair) == 1 or len(pair[0] & pair[1]) > 1):
            return True
    return False


def _section(prefix: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The part of config.json that describes a stack: () is all of it."""
    parts = [key for key, value in config.items() if isinstance(value, dict) and key != "quantization_config"]
    lowered = prefix.lower()
    for words, endings in (
        (("vision", "visual", "image", "vit"), ("vision_config", "vision_encoder", "vit_config", "encoder")),
        (("audio", "speech"), ("audio_config", "audio_encoder", "speech_config", "encoder")),
        (("encoder.",), ("encoder",)),
        (("decoder.",), ("decoder",)),
    ):
        if any(word in lowered for word in words):
            for key in parts:
                if key in endings:
                    return (key,)
    if any(type(config.get(key)) is int for key in (*_DEPTH_KEYS, *_ENCODER_KEYS, *_DECODER_KEYS)):
        return ()
    for key in _TEXT_PARTS:
        if isinstance(config.get(key), dict):
            nested = config[key]
            inner = next((name for name in _TEXT_PARTS if isinstance(nested.get(name), dict)), None)
            return (key, inner) if inner else (key,)
    return ()


def _keys(prefix: str, section: tuple[str, ...], config: Mapping[str, Any], count: int) -> tuple[tuple[str, ...], ...]:
    """The keys that say `count`: first the one that means this stack."""
    part = _value(config, section)
    lowered = prefix.lower()
    own = _ENCODER_KEYS if "encoder." in lowered else _DECODER_KEYS if "decoder." in lowered else ()
    candidates = (*own, *_DEPTH_KEYS)
    if own == _DECODER_KEYS and any(key in part for key in _DECODER_KEYS):
        candidates = own
    if own == _ENCODER_KEYS and any(key in part for key in _ENCODER_KEYS):
        candidates = own
    return tuple((*section, key) for key in candidates if type(part.get(key)) is int and part[key] == count)


def _further(section: tuple[str, ...], config: Mapping[str, Any]) -> int:
    part = _value(config, section)
    return next((part[key] for key in _FURTHER_KEYS if type(part.get(key)) is int), 0)


def _value(config: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = config
    for key in keys:
        value = value[key]
    return value
