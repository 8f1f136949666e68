"""Render a model's chat template. Templates come from model files: they run in jinja's sandbox."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache

from weightsmith.errors import EvaluationError


def chat_text(
    template: str,
    messages: list[dict[str, str]],
    *,
    bos: str = "",
    eos: str = "",
    answer: bool = True,
    whole: bool = False,
) -> str:
    """The text of a conversation. `answer`: with the beginning of the model's turn; else cut behind the last message's
    content, so that the model continues it, unless it is to be `whole`. Raises EvaluationError for a template that
    fails."""
    from jinja2 import TemplateError

    try:
        text = _compile(template).render(messages=messages, add_generation_prompt=answer, bos_token=bos, eos_token=eos)
    except (TemplateError, TypeError, ValueError) as error:
        plain = [message for message in messages if message["role"] != "system"]  # some templates know no system
        if len(plain) < len(messages) and not whole:
            return chat_text(template, plain, bos=bos, eos=eos, answer=answer)
        raise EvaluationError(f"the model's chat template cannot be rendered: {error}") from error
    if answer or whole:
        return text
    last = messages[-1]["content"].strip()
    return text[: text.rindex(last) + len(last)]


@lru_cache(maxsize=8)
def _compile(template: str):
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    return environment.from_string(template)
