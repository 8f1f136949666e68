"""Modelfiles: a Go template that says what the model's own chat template says, or none and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gotpl
import pytest

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import WeightsmithError
from weightsmith.gguf.ollama import CONVERSATIONS, go_template, modelfile
from weightsmith.tokenizer.untrusted.chat_template import chat_text

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
LLAMA3 = "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
GEMMA = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
ZEPHYR = "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are kind.<|im_end|>\\n' }}{% endif %}"
    + CHATML
)
MISTRAL = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"

LAST_ONLY = "{{ messages[-1]['content'] }}{% if add_generation_prompt %}>{% endif %}"


def ours(template: str, messages: list[dict[str, str]], **ends: Any) -> str:
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    go_messages = [{"Role": m["role"], "Content": m["content"]} for m in messages]
    return gotpl.render(go_template(template, **ends, adds_bos=True), {"System": system, "Messages": go_messages})


@pytest.mark.parametrize(
    "template", [CHATML, LLAMA3, ZEPHYR, DEFAULT_SYSTEM], ids=["chatml", "llama3", "zephyr", "default system"]
)
def test_the_same_prompts(template: str) -> None:
    for messages in (*CONVERSATIONS, [{"role": "user", "content": '{{ .System }} """ <|im_end|>'}]):
        reference = chat_text(template, messages, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
        assert ours(template, messages, bos="<s>", eos="</s>") == reference.removeprefix("<s>")


@pytest.mark.parametrize("template", [GEMMA, MISTRAL], ids=["gemma", "mistral"])
def test_a_template_that_refuses_system_messages(template: str) -> None:
    plain = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    reference = chat_text(template, plain, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
    assert ours(template, plain, bos="<s>", eos="</s>") == reference.removeprefix("<s>")


def test_the_demo_base(smollm: Path) -> None:
    template = GGUFFile(smollm).metadata["tokenizer.chat_template"]
    text, reason = modelfile("m-q4_k_m.gguf", template, ["<|im_end|>"])
    assert reason is None
    assert text.startswith('FROM ./m-q4_k_m.gguf\nTEMPLATE """') and text.endswith('PARAMETER stop "<|im_end|>"\n')
    assert "You are a helpful AI assistant named SmolLM" in text and "{{ range .Messages }}" in text


def test_what_roles_do_not_tell() -> None:
    with pytest.raises(WeightsmithError, match="changes earlier messages"):
        go_template(LAST_ONLY)
    text, reason = modelfile("m.gguf", LAST_ONLY, ["</s>", "</s>"])
    assert text == 'FROM ./m.gguf\nPARAMETER stop "</s>"\n' and reason and "changes earlier messages" in reason
    assert modelfile("m.gguf", None, [])[1] == "the model has no chat template"
