"""`chat_template` of a recipe, resolved: the template that the merged model gets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from weightsmith.errors import EvaluationError
from weightsmith.files.suggestions import nearest
from weightsmith.models.model import Model
from weightsmith.recipe.recipe import Recipe
from weightsmith.tokenizer.alignment import Alignment
from weightsmith.tokenizer.model_template import model_template, named_template, template_names
from weightsmith.tokenizer.untrusted.chat_template import chat_text
from weightsmith.tokenizer.vocabulary import read_vocabulary

_KEY = "chat_template"
_TOKEN = re.compile(r"<\|[^|<>\s{}]+\|>|\[\|[^|\[\]\s{}]+\|\]|<(?:start|end)_of_turn>")  # as chat templates write them
_SAMPLE = [{"role": "user", "content": "Hello"}]
_TOKENS: dict[str, str | list[str]] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def choose_template(
    recipe: Recipe, models: Mapping[str, Model], home: Model, vocabulary: Alignment | None
) -> tuple[str | None, tuple[str, ...]]:
    """(the template, warnings); None where the recipe asks for none, so that the tokenizer's own stays. `auto`: the one
    that most models have; of those that as many have, the one that the recipe names first. `home` and `vocabulary` say
    what tokens the result has. Raises RecipeError for a name that no template has, and for a text that cannot be
    rendered."""
    template, warnings = _chosen(recipe, models)
    if template is None:
        return template, warnings
    known = vocabulary.tokens if vocabulary else own.ids if (own := read_vocabulary(home)) else None
    lacking = [token for token in dict.fromkeys(_TOKEN.findall(template)) if known is not None and token not in known]
    if lacking:
        warnings += (
            f"{recipe.file.place([_KEY])}: the chat template writes {', '.join(lacking)}, for which the vocabulary has "
            "no token: it is cut into pieces that the model has not learned as a sign. Take them from a model that has "
            "them (tokenizer_source: union), or another template",
        )
    return template, warnings


def _chosen(recipe: Recipe, models: Mapping[str, Model]) -> tuple[str | None, tuple[str, ...]]:
    request = recipe.schema.chat_template
    if request is None:
        return None, ()
    if request == "auto":
        templates = [model_template(model.home) for model in models.values()]
        counts = Counter(template.strip() for template in templates if template)
        if not counts:
            return None, (f"{recipe.file.place([_KEY])}: no model has a chat template, so the merged one has none",)
        return counts.most_common(1)[0][0], ()
    if request in template_names():
        return named_template(request), ()
    if "{" not in request:
        names = nearest(request, [*template_names(), "auto"])
        raise recipe.file.error([_KEY], f"{request!r} is neither the name of a chat template nor one in Jinja{names}")
    try:
        chat_text(request, _SAMPLE, special_tokens=_TOKENS, whole=True)
    except EvaluationError as error:
        raise recipe.file.error(
            [_KEY], str(error).replace("the model's chat template", "this chat template")
        ) from error
    return request, ()
