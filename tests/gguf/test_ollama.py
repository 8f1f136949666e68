"""Modelfiles: a Go template that says what the model's own chat template says, or none and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gotpl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import examples
from tests.gguf.modelfile_parser import parse_modelfile
from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import WeightsmithError
from weightsmith.gguf.companions.ollama import CONVERSATIONS, go_template, hub_files, modelfile
from weightsmith.gguf.companions.ollama_families import family_of, known_families
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
    made = modelfile("m-q4_k_m.gguf", template, ["<|im_end|>"])
    text = made.text
    assert made.reason is None
    assert text.startswith('FROM ./m-q4_k_m.gguf\nTEMPLATE """') and text.endswith('PARAMETER stop "<|im_end|>"\n')
    assert "You are a helpful AI assistant named SmolLM" in text and "{{ range .Messages }}" in text


def test_what_roles_do_not_tell() -> None:
    with pytest.raises(WeightsmithError, match="changes earlier messages"):
        go_template(LAST_ONLY)
    made = modelfile("m.gguf", LAST_ONLY, ["</s>", "</s>"])
    assert made.text == 'FROM ./m.gguf\nPARAMETER stop "</s>"\n'
    assert made.reason and "changes earlier messages" in made.reason
    assert modelfile("m.gguf", None, []).reason == "the model has no chat template"


def parsed(*arguments: Any, **options: Any) -> dict[str, list[str]]:
    commands: dict[str, list[str]] = {}
    for name, value in parse_modelfile(modelfile(*arguments, **options).text):
        commands.setdefault(name, []).append(value)
    return commands


@pytest.mark.parametrize(
    "model_type,template,expected",
    [
        ("qwen3_5_moe", "<think> <tool_call><function=x>", ("qwen3.5", "qwen3.5", "0.17.1")),
        ("qwen3_moe", "<tool_call><function=x>", ("qwen3-coder", "qwen3-coder", None)),
        ("qwen3_vl", "<think><tool_call>", ("qwen3-vl-thinking", "qwen3-vl-thinking", None)),
        ("qwen3_vl", "<tool_call>", ("qwen3-vl-instruct", "qwen3-vl-instruct", None)),
        ("gemma4", "<|turn>user <|tool>", ("gemma4", "gemma4", None)),
        ("glm4_moe", "<think><arg_key>", ("glm-4.7", "glm-4.7", None)),
        ("lfm2", "<|im_start|>", ("lfm2", "lfm2", None)),
        ("llama", "Enable deep thinking subroutine.", ("cogito", "cogito", None)),
    ],
)
def test_families_that_ollama_has_built_in(model_type: str, template: str, expected: tuple) -> None:
    for config in ({"model_type": model_type}, {"model_type": "x", "text_config": {"model_type": model_type}}):
        commands = parsed("m.gguf", template, ["<|im_end|>"], config=config)
        assert (commands["renderer"], commands["parser"]) == ([expected[0]], [expected[1]])
        assert commands.get("requires", [None]) == [expected[2]]
        assert commands["template"] == ["{{ .Prompt }}"] and commands["stop"] == ["<|im_end|>"]


def test_a_family_that_talks_otherwise_is_not_named() -> None:
    """A fine-tune with another chat template would get prompts that it has not seen."""
    for config in ({"model_type": "qwen3_5"}, {"model_type": "lfm2"}, {"model_type": 3}, {}):
        commands = parsed("m.gguf", ZEPHYR, [], config=config, eos="</s>")
        assert not {"renderer", "parser"} & commands.keys() and "<|assistant|>" in commands["template"][0]


def test_each_family_is_reached() -> None:
    for family in known_families():
        for model_type in family.model_types:
            assert family_of({"model_type": model_type}, " ".join(family.has)) == family


@examples(200)
@given(st.lists(st.text(max_size=12), max_size=4), st.text(max_size=20))
def test_ollama_reads_back_what_is_written(stops: list[str], license: str) -> None:
    made = modelfile("m.gguf", CHATML, stops, license=license)
    commands = parse_modelfile(made.text)
    assert commands[0] == ("model", "./m.gguf") and commands[1] == ("template", made.template)
    assert [value for name, value in commands if name == "stop"] == list(made.stops)
    plain = [stop for stop in dict.fromkeys(stops) if stop.isprintable() and stop and '"""' not in stop]
    assert set(plain) <= set(made.stops)
    if license.isprintable() and license and '"""' not in license:
        assert commands[-1] == ("license", license)


def test_what_the_hub_hands_to_ollama() -> None:
    made = modelfile("m.gguf", CHATML, ["<|im_end|>"])
    named = hub_files(made)
    assert json.loads(named["params"]) == {"stop": ["<|im_end|>"]}
    assert f'TEMPLATE """{named["template"]}"""' in made.text
    assert hub_files(modelfile("m.gguf", None, [])) == {}
