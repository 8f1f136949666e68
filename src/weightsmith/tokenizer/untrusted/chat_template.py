"""Render a model's chat template. Templates come from model files: they run in jinja's sandbox, in a process that has
limits of time and memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from weightsmith.errors import EvaluationError
from weightsmith.tokenizer.untrusted.limited_process import LimitExceeded, ask_limited

Messages = Sequence[Mapping[str, str]]  # role, content
_END = "CONTINUE_FINAL_MESSAGE_TAG "  # transformers' own; with a space: whether the template strips it shows


def chat_text(
    template: str,
    messages: Messages,
    *,
    special_tokens: Mapping[str, str | list[str]] | None = None,
    answer: bool = True,
    whole: bool = False,
) -> str:
    """The text of a conversation, as transformers' `apply_chat_template` gives it.

    `special_tokens`: by name, such as `bos_token`. `answer`: with the beginning of the model's turn; else cut
    behind the last message's content, so that the model continues it, unless it is to be `whole`. Raises
    EvaluationError for a template that fails, or takes longer or more memory than a template may.

        >>> chat_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", [{"role": "user", "content":
        ... "Hi"}])
        '<user>Hi'
    """
    cut = not answer and not whole
    asked: list[dict[str, str]] = [dict(message) for message in messages]
    if cut:
        asked[-1]["content"] += _END
    request = {
        "run": "render",
        "template": template,
        "messages": asked,
        "values": {**(special_tokens or {}), "add_generation_prompt": answer},
    }
    try:
        reply = ask_limited(request)
    except LimitExceeded as error:
        raise EvaluationError(f"the model's chat template {error}") from error
    if "missing" in reply:
        raise ModuleNotFoundError(f"No module named {reply['missing']!r}", name=reply["missing"])
    if "error" in reply:
        plain = [message for message in messages if message["role"] != "system"]  # some templates know no system
        if 0 < len(plain) < len(messages) and not whole:
            return chat_text(template, plain, special_tokens=special_tokens, answer=answer)
        raise EvaluationError(f"the model's chat template cannot be rendered: {reply['error']}")
    text: str = reply["text"]
    return _before_end(text, messages[-1]["content"]) if cut else text


def _before_end(text: str, last: str) -> str:
    """`text` up to the mark behind the last message. Spaces before it go where the template strips contents."""
    position = text.rfind(_END.strip())
    if position < 0 or last.strip() not in text:
        raise EvaluationError(
            "the model's chat template changes or leaves out the last message, so the model cannot continue it"
        )
    return text[:position] if text.startswith(_END, position) else text[:position].rstrip()


def answer_request(request: Mapping[str, Any]) -> dict[str, str]:
    """The text, or the error: in the process with limits."""
    try:
        return {"text": _compile(request["template"]).render(messages=request["messages"], **request["values"])}
    except MemoryError:
        raise
    except ModuleNotFoundError as error:
        return {"missing": str(error.name)}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    except Exception as error:  # whatever its author's program does
        return {"error": f"{error}"[:500]}


@lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    """The template with what transformers gives to one (utils/chat_template_utils.py)."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}`, which marks what a model says: training needs it, the text is the same."""

        tags = {"generation"}  # noqa: RUF012 - as jinja declares it

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )

    class PlainNamespace(Namespace):
        """One that takes no names of Python's own."""

        def __init__(*args: Any, **values: Any) -> None:
            self, *given = args
            names = dict(*given, **values)
            for name in names:
                check_name(name)
            Namespace.__init__(self, names)

        def __setitem__(self, name: str, value: Any) -> None:
            check_name(name)
            Namespace.__setitem__(self, name, value)

    def check_name(name: str) -> None:
        if name.startswith("_"):
            raise TemplateError(f"a namespace has no place for {name!r}")

    environment.globals["namespace"] = PlainNamespace
    environment.globals["dict"] = lambda *args, **values: dict(*args, **values)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = _to_json
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
