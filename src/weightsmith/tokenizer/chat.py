"""Render a model's chat template. Templates come from model files: they run in jinja's sandbox."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache

from weightsmith.errors import EvaluationError


def chat_prompt(template: str, user: str, *, bos: str = "", eos: str = "") -> str:
    """The text that asks the model to answer one user message. Raises EvaluationError for a template that fails."""
    from jinja2 import TemplateError

    try:
        return _compile(template).render(
            messages=[{"role": "user", "content": user}], add_generation_prompt=True, bos_token=bos, eos_token=eos
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise EvaluationError(f"the model's chat template cannot be rendered: {error}") from error


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
