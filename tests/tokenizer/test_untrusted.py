"""Chat templates and tokenizers, under limits: texts as transformers makes them, and authors who mean harm."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.tiny_tokenizer import save_tokenizer
from weightsmith.errors import CheckpointError, EvaluationError
from weightsmith.models.companion_files import check_tokenizer
from weightsmith.tokenizer.untrusted import limited_process
from weightsmith.tokenizer.untrusted.chat_template import chat_text
from weightsmith.tokenizer.untrusted.try_tokenizer import try_tokenizer

TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "strips": "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %} {% endfor %}",
    "loop controls": "{%- for m in messages %}\n{%- if m.role == 'system' %}{% continue %}{% endif %}\n  {{ m.content }}\n{%- endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ {'b': 1, 'a': 'é<'} | tojson(sort_keys=true) }} {{ messages[-1].content }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m.content }}{% endfor %}{{ dict(a=1).a }}",
    "refuses systems": "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}{% endfor %}",
    "pad": "{{ pad_token }}{{ unk_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
}
CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "Hello  "}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello\n\n"}],
    [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two, and <b>'quotes'</b> é."},
        {"role": "user", "content": "One?"},
    ],
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_as_transformers_renders_it(name: str, tmp_path: Path) -> None:
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    save_tokenizer(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path, chat_template=TEMPLATES[name])
    for messages in CONVERSATIONS:
        if name == "refuses systems" and messages[0]["role"] == "system":
            continue
        for answer in (True, False):
            expected = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer, continue_final_message=not answer
            )
            assert chat_text(TEMPLATES[name], messages, special_tokens=tokens, answer=answer) == expected


def test_a_system_message_that_is_refused_is_left_out() -> None:
    _, conversation, _ = CONVERSATIONS
    assert chat_text(TEMPLATES["refuses systems"], conversation) == "Hello\n\n"
    with pytest.raises(EvaluationError, match="cannot be rendered: no system"):
        chat_text(TEMPLATES["refuses systems"], conversation, whole=True)
    with pytest.raises(EvaluationError, match="cannot be rendered: no system"):
        chat_text(TEMPLATES["refuses systems"], conversation[:1])


HOSTILE = {
    "for ever": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "has no result after",
    ),
    "10 GB": ("{{ 'a' * 10**10 }}", "needs more than 512 MB"),
    "doubles": (
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "needs more than 512 MB",
    ),
    "nested": ("{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", "nested too deeply"),
    "many ifs": ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "nested too deeply"),
    "recursive macro": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deeply"),
    "Python's own names": ("{{ namespace(__class__=1) }}", "no place for '__class__'"),
    "files": ("{% include '/etc/passwd' %}", "cannot be rendered"),
    "no Jinja": ("{% for %}", "cannot be rendered"),
    "divides": ("{{ 1 / 0 }}", "cannot be rendered: division by zero"),
    "no last message": ("{{ messages | length }}", "leaves out the last message"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_templates_that_mean_harm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template, reason = HOSTILE[name]
    ask = limited_process.ask_limited
    monkeypatch.setattr(
        "weightsmith.tokenizer.untrusted.chat_template.ask_limited", lambda request: ask(request, seconds=2)
    )
    with pytest.raises(EvaluationError, match=reason):
        chat_text(template, CONVERSATIONS[0], answer=False)
    assert chat_text("{{ messages[0].content }}", CONVERSATIONS[0]) == "Hello  "


def test_a_template_sees_nothing_of_the_machine() -> None:
    for text in (
        "{{ messages.__class__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ dict.__globals__ }}",
    ):
        try:
            assert chat_text(text, CONVERSATIONS[0]) == ""
        except EvaluationError as error:
            assert "unsafe" in str(error)


def test_a_fork_has_a_process_of_its_own() -> None:
    assert chat_text("{{ messages[0].content }}", CONVERSATIONS[0]) == "Hello  "
    pid = os.fork()
    if not pid:
        same = chat_text("{{ messages[0].content }}", CONVERSATIONS[0]) == "Hello  "
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert chat_text("{{ messages[0].role }}", CONVERSATIONS[0]) == "user"


def folder_with(tmp_path: Path, **changes: Any) -> Path:
    save_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path


def test_usable_tokenizers(tmp_path: Path) -> None:
    try_tokenizer(tmp_path)  # has none
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Prepend", "prepend": "▁"}
    folder = folder_with(tmp_path, normalizer={"type": "Sequence", "normalizers": [prepend, replace]})
    check_tokenizer(folder)
    try_tokenizer(folder)


def test_tokenizers_that_grow(tmp_path: Path) -> None:
    double = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
    folder = folder_with(tmp_path, normalizer={"type": "Sequence", "normalizers": [double] * 40})
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: its normalizer makes a text up to 1.1e\+12 times as long"
    ):
        check_tokenizer(folder)
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: the tokenizer (has no result|needs more|cannot be run)"
    ):
        try_tokenizer(folder)


def test_a_pattern_without_end(tmp_path: Path) -> None:
    rule = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False}
    folder = folder_with(tmp_path, pre_tokenizer=rule)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: the tokenizer"):
        try_tokenizer(folder)


def test_one_that_cannot_be_loaded(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, model={"type": "No", "vocab": {}})
    with pytest.raises(CheckpointError, match=r"tokenizer.json: the tokenizer cannot be used: "):
        try_tokenizer(folder)


def test_a_relative_path_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat_text("begins the process that answers", [{"role": "user", "content": "here"}])
    (tmp_path / "other").mkdir()
    folder_with(tmp_path)
    monkeypatch.chdir(tmp_path)
    try_tokenizer(Path())
    with pytest.raises(CheckpointError, match=r"tokenizer.json: the tokenizer cannot be used: "):
        try_tokenizer(folder_with(Path("other"), model={"type": "No", "vocab": {}}))
