"""Which rows of a fused weight are query, key and value, held against the models themselves.

Of one token the softmax is 1 whatever query and key say: the rows that have a gradient are the value's."""

from __future__ import annotations

import pytest
import torch
import transformers

from weightsmith.planning.fused_parts import matrix_layout

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 48}
LLAMA_LIKE = SIZES | {"intermediate_size": 40, "pad_token_id": 0}
GPT_LIKE = {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 48, "n_positions": 16}
FAMILIES = {
    "gpt2": ("GPT2", GPT_LIKE),
    "gpt_neox": ("GPTNeoX", LLAMA_LIKE),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 1, "n_head": 4, "vocab_size": 48}),
    "falcon": ("Falcon", SIZES | {"multi_query": False}),
    "falcon, one key": ("Falcon", SIZES | {"multi_query": True, "parallel_attn": True}),
    "falcon, groups": ("Falcon", SIZES | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt_bigcode": ("GPTBigCode", GPT_LIKE | {"multi_query": False}),
    "gpt_bigcode, one key": ("GPTBigCode", GPT_LIKE | {"multi_query": True}),
    "persimmon": ("Persimmon", LLAMA_LIKE),
    "phi3": ("Phi3", LLAMA_LIKE | {"num_key_value_heads": 2}),
    "mpt": ("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 1, "vocab_size": 48, "max_seq_len": 16}),
    "codegen": ("CodeGen", GPT_LIKE | {"rotary_dim": 4}),
}
FUSED = ("qkv_proj.weight", "query_key_value.weight", "Wqkv.weight", "c_attn.weight")


def model_of(family: str, sizes: dict) -> torch.nn.Module:
    config = getattr(transformers, f"{family}Config")(**sizes)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    return getattr(transformers, name)(config).eval()


@pytest.mark.parametrize("case", FAMILIES)
def test_the_value_is_a_part_of_its_own(case: str) -> None:
    model = model_of(*FAMILIES[case])
    name, weight = next((n, p) for n, p in model.named_parameters() if n.endswith(FUSED))
    model(input_ids=torch.tensor([[7]])).logits.square().sum().backward()
    layout = matrix_layout(name, tuple(weight.shape), model.config.to_dict())
    assert layout and len(layout.sizes) == 3 and weight.grad is not None
    gradient = weight.grad.T if layout.transposed else weight.grad
    of_value = set(torch.nonzero(gradient.abs().amax(1) > 1e-12).flatten().tolist())
    parts = [set(rows) for rows in layout.rows_of_parts()]
    assert of_value in parts
    assert sorted(row for part in parts for row in part) == list(range(gradient.shape[0]))


def test_gate_and_up_are_halves_and_other_weights_are_whole() -> None:
    layout = matrix_layout("model.layers.0.mlp.gate_up_proj.weight", (80, 32), {"model_type": "phi3"})
    assert layout and layout.sizes == (40, 40) and not layout.transposed
    assert matrix_layout("model.layers.0.mlp.down_proj.weight", (32, 40), {"model_type": "phi3"}) is None
    assert matrix_layout("model.layers.0.self_attn.qkv_proj.weight", (97, 32), {"num_attention_heads": 4}) is None
    turned = matrix_layout("transformer.h.0.mlp.c_fc.weight", (32, 128), {"model_type": "gpt2"})
    assert turned and turned.transposed and turned.sizes == (128,)
