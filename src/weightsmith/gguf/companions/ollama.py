"""An Ollama Modelfile: the file, a prompt template that says what the model's own chat template says, and where answers
stop.

A chat template is a Jinja program, Ollama's is one for Go's text/template
(https://github.com/ollama/ollama/blob/main/docs/template.md). Instead of translating one language into the other, the
model's template is asked what it puts around messages of each role, and a Go template is written that puts the same
around them. Both are then rendered for several conversations: where they differ in one character, there is no template
in the Modelfile, and it is said why. Families that Ollama has code of its own for are named instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weightsmith.errors import WeightsmithError
from weightsmith.gguf.companions.ollama_families import OllamaFamily, family_of
from weightsmith.tokenizer.untrusted.chat_template import chat_text

Message = dict[str, str]
Render = Callable[[list[Message], bool], str]  # with or without the beginning of an answer

_SYSTEM, _USER, _ASSISTANT = "{{system text}}", "{{user text}}", "{{answer text}}"
CONVERSATIONS: tuple[list[Message], ...] = (
    [{"role": "user", "content": "Hello, who are you?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, who are you?"}],
    [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?\nFour?"},
        {"role": "assistant", "content": "Five."},
        {"role": "user", "content": "Six?"},
    ],
    [
        {"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ],
)


class NoModelfileTemplate(WeightsmithError):
    """The chat template does something that roles alone do not tell."""


@dataclass(frozen=True)
class _Around:
    before: str
    after: str


@dataclass(frozen=True)
class Modelfile:
    """`text`: the file; `reason`: why it has no template of the model's own; `template`: that one, for Go; `stops`: the
    texts at which an answer ends; `family`: what Ollama has built in for it."""

    text: str
    reason: str | None
    template: str | None
    stops: tuple[str, ...]
    family: OllamaFamily | None


def modelfile(
    file: str,
    template: str | None,
    stops: Sequence[str],
    *,
    bos: str = "",
    eos: str = "",
    adds_bos: bool = False,
    config: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> Modelfile:
    """The Modelfile for the GGUF `file` beside it. `template` is the model's Jinja one; `stops`: texts of the tokens
    that end an answer; `adds_bos`: llama.cpp puts the begin token before every prompt by itself; `config`:
    config.json, which tells the family; `license`: of the model, as its card names it.

    https://github.com/ollama/ollama/blob/main/parser/parser.go reads it."""
    lines, reason, go_text = [f"FROM ./{file}"], None, None
    family = family_of(config or {}, template)
    if family and family.renderer:
        lines.append("TEMPLATE {{ .Prompt }}")  # as Ollama's own library has it: the renderer writes all of the prompt
    elif template is None:
        reason = "the model has no chat template"
    else:
        try:
            go_text = go_template(template, bos=bos, eos=eos, adds_bos=adds_bos)
            lines.append(f'TEMPLATE """{go_text}"""')
        except WeightsmithError as error:
            reason = str(error)
    if family:
        lines += [f"RENDERER {family.renderer}"] if family.renderer else []
        lines.append(f"PARSER {family.parser}")
        lines += [f"REQUIRES {family.requires}"] if family.requires else []
    kept = tuple(stop for stop in dict.fromkeys(stops) if _can_be_quoted(stop))
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in kept]
    if license and _can_be_quoted(license):
        lines.append(f"LICENSE {_quoted(license)}")
    return Modelfile("\n".join(lines) + "\n", reason, go_text, kept, family)


def hub_files(ollama: Modelfile) -> dict[str, str]:
    """Name -> content of what the hub hands to `ollama run hf.co/OWNER/NAME`, which reads no Modelfile
    (https://huggingface.co/docs/hub/ollama#custom-chat-template-and-parameters)."""
    named = {"template": ollama.template} if ollama.template else {}
    if ollama.stops:
        named["params"] = json.dumps({"stop": list(ollama.stops)}, ensure_ascii=False, indent=1) + "\n"
    return named


def _quoted(text: str) -> str:
    """In the quotes of a Modelfile, which knows no escapes."""
    return f'"""{text}"""' if '"' in text or "\n" in text else f'"{text}"'


def _can_be_quoted(text: str) -> bool:
    """What Ollama's parser reads back as it is: it drops what is not printable."""
    return bool(text) and '"""' not in text and all(letter.isprintable() or letter in "\n\t" for letter in text)


def go_template(template: str, *, bos: str = "", eos: str = "", adds_bos: bool = False) -> str:
    """The Go template, checked. Raises NoModelfileTemplate or EvaluationError."""

    special_tokens = {"bos_token": bos, "eos_token": eos}

    def render(messages: list[Message], answer: bool) -> str:
        text = chat_text(template, messages, special_tokens=special_tokens, answer=answer, whole=True)
        return text.removeprefix(bos) if adds_bos else text

    go_text, takes_system = _write_template(render)
    for conversation in CONVERSATIONS:
        if conversation[0]["role"] == "system" and not takes_system:
            continue
        expected, rendered = render(conversation, True), _render_go(go_text, conversation)
        if expected != rendered:
            raise NoModelfileTemplate(
                f"the chat template gives {expected[-80:]!r} where one that depends on roles alone gives "
                f"{rendered[-80:]!r}"
            )
    return go_text


def _write_template(render: Render) -> tuple[str, bool]:
    """(the Go template, does it take system messages)."""
    user = {"role": "user", "content": _USER}
    assistant = {"role": "assistant", "content": _ASSISTANT}
    first, second = render([user], False), render([user, assistant], False)
    third = render([user, assistant, user], False)
    answered = _cut(second, first, _ASSISTANT)
    asked = _cut(third, second, _USER)
    head = _before(first, asked.before + _USER + asked.after)
    begin = render([user], True)
    if not begin.startswith(first):
        raise NoModelfileTemplate("the chat template changes earlier messages when an answer begins")
    system = _system(render, asked, head)
    roles = [("user", asked), ("assistant", answered)]
    text = ""
    if system is not None:
        roles.insert(0, ("system", system[1]))
        same = head == system[0]
        text += _go(head) if same else f"{{{{ if .System }}}}{_go(system[0])}{{{{ else }}}}{_go(head)}{{{{ end }}}}"
    else:
        text += _go(head)
    text += "{{ range .Messages }}"
    for number, (role, around) in enumerate(roles):
        word = "if" if number == 0 else "else if"
        text += f'{{{{ {word} eq .Role "{role}" }}}}{_go(around.before)}{{{{ .Content }}}}{_go(around.after)}'
    return text + "{{ end }}{{ end }}" + _go(begin[len(first) :]), system is not None


def _system(render: Render, asked: _Around, head: str) -> tuple[str, _Around] | None:
    """What precedes a system message and what is around it; None where the template ignores or refuses one."""
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
    try:
        text = _before(render(messages, False), asked.before + _USER + asked.after)
    except WeightsmithError:
        return None
    if _SYSTEM not in text:
        return None
    before, _, after = text.partition(_SYSTEM)
    shared = 0
    while shared < min(len(head), len(before)) and head[shared] == before[shared]:
        shared += 1
    return ("", _Around(before, after)) if shared < len(head) else (head, _Around(before[len(head) :], after))


def _cut(longer: str, shorter: str, content: str) -> _Around:
    if not longer.startswith(shorter) or content not in longer[len(shorter) :]:
        raise NoModelfileTemplate("the chat template changes earlier messages when a message is added")
    before, _, after = longer[len(shorter) :].partition(content)
    return _Around(before, after)


def _before(text: str, end: str) -> str:
    if not text.endswith(end):
        raise NoModelfileTemplate(
            "the chat template puts something else around the first message than around later ones"
        )
    return text[: len(text) - len(end)]


def _go(text: str) -> str:
    """Literal text in a Go template; braces and what would end the Modelfile's quotes go through a string constant."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if "{{" in text or '"""' in text else text


def _render_go(template: str, messages: list[Message]) -> str:
    """What Ollama renders (template/template.go): the messages, and what the system messages say together."""
    import gotpl

    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    go_messages = [{"Role": message["role"], "Content": message["content"]} for message in messages]
    return gotpl.render(template, {"System": system, "Messages": go_messages})
