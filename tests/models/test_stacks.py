"""Stacks of layers among tensor names, by hand: which numbers are layers, and which key of config.json counts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from weightsmith.errors import CheckpointError
from weightsmith.models.parts.stacks import check_layers, find_stacks


def layers(prefix: str, numbers: object, *suffixes: str) -> list[str]:
    suffixes = suffixes or ("attn.q.weight", "attn.k.weight", "mlp.up.weight")
    return [f"{prefix}{n}.{suffix}" for n in numbers for suffix in suffixes]


def test_each_stack_has_the_key_that_counts_it() -> None:
    names = [*layers("model.language_model.layers.", range(3)), *layers("model.vision_tower.encoder.layers.", range(2))]
    config = {"text_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 2}}
    stacks = find_stacks(names, config)
    assert {stack.prefix: stack.keys for stack in stacks.stacks.values()} == {
        "model.language_model.layers.": (("text_config", "num_hidden_layers"),),
        "model.vision_tower.encoder.layers.": (("vision_config", "num_hidden_layers"),),
    }
    assert stacks.main and stacks.main.prefix == "model.language_model.layers."


def test_gradients_run_over_each_stack_of_its_own() -> None:
    names = [*layers("encoder.block.", range(3)), *layers("decoder.block.", range(5))]
    stacks = find_stacks(names, {"num_layers": 3, "num_decoder_layers": 5})
    assert [stacks.depth_of(f"encoder.block.{n}.attn.q.weight") for n in range(3)] == [0.0, 0.5, 1.0]
    assert [stacks.depth_of(f"decoder.block.{n}.attn.q.weight") for n in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert stacks.main is None


def test_all_keys_that_count_a_stack_are_known() -> None:
    stack = find_stacks(layers("transformer.h.", range(4)), {"n_layer": 4, "num_hidden_layers": 4, "n_head": 4}).main
    assert stack and set(stack.keys) == {("n_layer",), ("num_hidden_layers",)}


@pytest.mark.parametrize("prefix", ["visual.merger.mlp.", "mm_projector.", "score.", "mlp1."])
def test_a_gap_in_a_sequential_is_an_activation(prefix: str) -> None:
    names = [*layers("model.layers.", range(2)), *layers(prefix, (0, 2), "weight", "bias")]
    check_layers(Path("m"), names, {"num_hidden_layers": 2})
    stacks = find_stacks(names, {"num_hidden_layers": 2})
    assert list(stacks.stacks) == ["model.layers."]
    assert stacks.depth_of(f"{prefix}2.weight") == 0.0


def test_a_gap_between_layers_is_a_missing_layer() -> None:
    with pytest.raises(CheckpointError, match="layer 1 is missing"):
        check_layers(Path("m"), layers("model.layers.", (0, 2)), {"num_hidden_layers": 3})


def test_a_gap_among_modules_of_different_kinds_is_an_activation() -> None:
    """The decoder of Mimi: convolutions, blocks of them, and activations between."""
    names = [f"codec.decoder.layers.{n}.conv.{kind}" for n in (0, 2, 5) for kind in ("weight", "bias")]
    names += [
        f"codec.decoder.layers.{n}.block.{k}.conv.{e}" for n in (3, 6) for k in (1, 3) for e in ("weight", "bias")
    ]
    check_layers(Path("m"), [*layers("model.layers.", range(2)), *names], {"num_hidden_layers": 2})
    missing = [*layers("model.layers.", (0, 2)), *names]
    with pytest.raises(CheckpointError, match="layer 1 is missing"):
        check_layers(Path("m"), missing, {"num_hidden_layers": 3})


def test_what_a_vision_model_calls_hidden_layers_may_be_no_blocks() -> None:
    names = layers("efficientnet.encoder.blocks.", range(10), "expansion.conv.weight", "depthwise_conv.norm.bias")
    check_layers(Path("m"), names, {"model_type": "efficientnet", "image_size": 600, "num_hidden_layers": 64})


def test_layers_behind_those_that_are_counted_predict_further_tokens() -> None:
    names = layers("model.layers.", range(4))
    config = {"num_hidden_layers": 3, "num_nextn_predict_layers": 1}
    check_layers(Path("m"), names, config)
    stacks = find_stacks(names, config)
    assert stacks.depth == 3
    assert [stacks.is_further(f"model.layers.{n}.attn.q.weight") for n in range(4)] == [False, False, False, True]
    assert stacks.depth_of("model.layers.2.attn.q.weight") == 1.0
    assert stacks.is_further("mtp.layers.0.attn.q.weight")
    assert stacks.is_further("model.mtp.fc.weight")


def test_more_layers_than_config_json_counts_belong_to_another_model() -> None:
    with pytest.raises(CheckpointError, match=r"config\.json says 3 layers, the weights have 4"):
        check_layers(Path("m"), layers("model.layers.", range(4)), {"num_hidden_layers": 3})
