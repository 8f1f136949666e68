"""The JSON Schema of recipes, which editors use to complete keys and to mark faults."""

from __future__ import annotations

from typing import Any

from weightsmith.methods.method import Parameter
from weightsmith.methods.registry import METHODS, method_names
from weightsmith.recipe.parameters import expected_of
from weightsmith.recipe.recipe_schema import DTYPES, RecipeSchema

_PATH = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"path": {"type": "string"}, "revision": {"type": ["string", "null"]}},
            "required": ["path"],
            "additionalProperties": False,
        },
    ]
}
_MODEL = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {
                "model": _PATH,
                "lora": {"anyOf": [*_PATH["anyOf"], {"type": "null"}]},
                "override_architecture": {"type": ["string", "null"]},
            },
            "required": ["model"],
            "additionalProperties": False,
        },
    ]
}


def recipe_json_schema() -> dict[str, Any]:
    """The schema of a recipe with the methods installed here, JSON Schema 2020-12.

    >>> recipe_json_schema()["properties"]["merge_method"]["enum"][0]
    'linear'
    """
    schema = RecipeSchema.model_json_schema()
    definitions = schema["$defs"]
    parameters = {
        "anyOf": [{"type": "object", "properties": _parameters(), "additionalProperties": False}, {"type": "null"}]
    }
    for part in (schema, *definitions.values()):
        for name, own in part.get("properties", {}).items():
            if name in ("model", "base_model", "tokenizer_source"):
                part["properties"][name] = _MODEL | {"description": own.get("description", "")}
            elif name == "parameters":
                part["properties"][name] = {"$ref": "#/$defs/Parameters", "description": own.get("description", "")}
    definitions["Parameters"] = parameters
    definitions["Tokenizer"]["properties"]["source"] = _MODEL
    definitions["TokenRule"]["properties"]["source"] = {
        "anyOf": [*_MODEL["anyOf"], {"type": "object"}, {"type": "null"}]
    }
    dtypes = [*DTYPES, *(f"torch.{dtype}" for dtype in DTYPES)]
    for name in ("dtype", "out_dtype"):
        schema["properties"][name]["anyOf"] = [{"enum": dtypes}, {"type": "null"}]
    schema["properties"]["merge_method"]["enum"] = method_names()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _parameters() -> dict[str, Any]:
    """Every parameter of every method: a value, a gradient, or values with filters."""
    found: dict[str, Parameter] = {p.name: p for name in method_names() for p in METHODS[name].parameters}
    return {name: _values(parameter) for name, parameter in found.items()}


def _values(parameter: Parameter) -> dict[str, Any]:
    value: dict[str, Any] = (
        {"enum": list(parameter.choices)} if parameter.choices else {"type": ["number", "boolean", "string"]}
    )
    gradient = {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
    conditional = {
        "type": "object",
        "properties": {"value": gradient, "filter": {"type": ["string", "null"]}},
        "required": ["value"],
        "additionalProperties": False,
    }
    return {
        "description": f"{parameter.doc} ({expected_of(parameter)})",
        "anyOf": [*gradient["anyOf"], conditional, {"type": "array", "items": conditional, "minItems": 1}],
    }
