"""Classes of transformers, saved by transformers, merged and loaded again: one of each kind, or with --all every one."""

from __future__ import annotations

import pytest

from tests.models.atlas import check, classes

DAILY = (
    "Qwen3MoeForCausalLM",
    "GPTNeoForCausalLM",
    "NemotronHForCausalLM",
    "Gemma3ForConditionalGeneration",
    "T5ForConditionalGeneration",
    "WhisperForConditionalGeneration",
    "BertForMaskedLM",
    "LlamaForSequenceClassification",
    "ViTForImageClassification",
    "Wav2Vec2ForCTC",
)
KINDS = dict(classes())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in DAILY else pytest.mark.more) for name in KINDS]
)
def test_a_class_of_transformers_merges_right_or_is_refused(name: str) -> None:
    row = check(name, KINDS[name])
    assert row.result != "wrong", row.reason
    assert not row.stacked.startswith("wrong"), row.stacked
    if name in DAILY:
        assert row.result == "works", row.reason
