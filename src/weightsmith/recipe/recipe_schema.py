"""What a merge recipe may say, with mergekit's keys (https://github.com/arcee-ai/mergekit#merge-configuration)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from weightsmith.files.inputs.yaml_file import KeyProblem, StrictModel
from weightsmith.methods.registry import parameter_names
from weightsmith.recipe.model_reference import ModelReference, short_reference

DTYPES = ("float32", "float16", "bfloat16")
_NULL_IS_EMPTY = BeforeValidator(lambda value: {} if value is None else value)
Parameters = Annotated[dict[str, Any], _NULL_IS_EMPTY]


def _refuse_parameters(value: Any, known: Mapping[str, Any], where: str) -> None:
    """Raises KeyProblem for a parameter that stands one level too far out."""
    unknown = [key for key in value if key not in known] if isinstance(value, Mapping) else []
    if unknown and (misplaced := next((key for key in unknown if key in parameter_names()), None)):
        message = f"unknown key {misplaced!r}; it is a parameter of merge methods: put it under {where}"
        raise KeyProblem(misplaced, message)


class ModelEntry(StrictModel):
    """One model of `models`, with its own parameters."""

    model: ModelReference = Field(
        description="A folder, a GGUF file or a hub id (`owner/name@revision`), with `+ADAPTER` for a LoRA adapter; or "
        "`{model: {path, revision}, lora: {path, revision}, override_architecture}`."
    )
    parameters: Parameters = Field(
        default_factory=dict, description="Parameters of this model; they win over those further out."
    )

    @model_validator(mode="before")
    @classmethod
    def _what_stands_elsewhere(cls, value: Any) -> Any:
        _refuse_parameters(value, cls.model_fields, "this model's `parameters`")
        if isinstance(value, Mapping) and "revision" in value:
            raise ValueError(
                f"unknown key 'revision' (mergekit passes over it and takes the main branch); write it behind the "
                f"model: `{value.get('model')}@{value['revision']}`"
            )
        return value


class SliceSource(ModelEntry):
    """Layers `layer_range[0]` to `layer_range[1]` (exclusive) of one model."""

    layer_range: tuple[int, int] = Field(description="`[first, last + 1]`: the layers to take.")

    @field_validator("layer_range")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1]:
            raise ValueError(f"layer_range {list(value)} holds no layer; it is [first, last + 1]")
        return value


class Slice(StrictModel):
    """A run of output layers, each merged from the same number of layers of every source."""

    sources: list[SliceSource] = Field(min_length=1, description="Layers to merge, the same number from each model.")
    base_model: ModelReference | None = Field(
        default=None, description="The base model of this slice, instead of the recipe's."
    )
    parameters: Parameters = Field(default_factory=dict, description="Parameters of this slice.")
    residual_weight: float | None = Field(
        default=None, description="Accepted for mergekit's recipes, which does nothing with it either."
    )


class Module(StrictModel):
    """One part of the model, such as the text decoder, the vision tower or the encoder: `models` or `slices`."""

    models: list[ModelEntry] | None = Field(default=None, min_length=1, description="Whole models to merge.")
    slices: list[Slice] | None = Field(default=None, min_length=1, description="Runs of layers of this part.")
    parameters: Parameters = Field(default_factory=dict, description="Parameters of this part.")

    @model_validator(mode="after")
    def _one_kind(self) -> Module:
        if (self.models is None) == (self.slices is None):
            raise ValueError("a module has exactly one of 'models' and 'slices'")
        return self


def _token_source(value: Any) -> Any:
    if not isinstance(value, Mapping) or "kind" not in value:
        return short_reference(value)
    if value["kind"] == "zero":
        return dict(value)
    if value["kind"] != "model_token":
        raise ValueError(f"unknown kind {value['kind']!r}; known: model_token, zero")
    if ("token" in value) == ("token_id" in value):
        raise ValueError("a model_token has exactly one of 'token' and 'token_id'")
    return {**value, "model": short_reference(value.get("model"))}


class TokenRule(StrictModel):
    """Where the embedding of one token comes from: a model, one token of a model, or zeros (mergekit's forms)."""

    source: Annotated[str | dict[str, Any] | None, BeforeValidator(_token_source)] = Field(
        default=None,
        description="A model; `{kind: model_token, model: M, token: T}` (or `token_id: N`); or `{kind: zero}`.",
    )
    force: bool = Field(default=False, description="Use it for the models that have the token, too.")


class Tokenizer(StrictModel):
    """The vocabulary of the merged model: `union`, `base` or a model's, with rules for single tokens."""

    source: ModelReference = Field(default="union", description="`union`, `base`, or one of the models.")
    tokens: Annotated[dict[str, TokenRule], _NULL_IS_EMPTY] = Field(
        default_factory=dict, description="Where single tokens come from."
    )
    pad_to_multiple_of: int | None = Field(
        default=None, ge=1, le=65_536, description="Pad the vocabulary with zero rows to a multiple of this number."
    )


class RecipeSchema(StrictModel):
    """Top level. Exactly one of `models`, `slices` and `modules`."""

    merge_method: str = Field(description="One of the [methods](methods.md).")
    models: list[ModelEntry] | None = Field(default=None, min_length=1, description="Whole models to merge.")
    slices: list[Slice] | None = Field(
        default=None, min_length=1, description="Runs of layers, stacked in this order to make the output."
    )
    modules: dict[str, Module] | None = Field(
        default=None,
        min_length=1,
        description="Parts of the model, each with its own `models` or `slices`: `text_decoder`, `vision_tower`, "
        "`multi_modal_projector`, `encoder`, `decoder`, `shared`, `default`, or what the tensor names begin with.",
    )
    base_model: ModelReference | None = Field(
        default=None,
        description="The model whose weights are subtracted to get task vectors; also the shape of the result.",
    )
    parameters: Parameters = Field(default_factory=dict, description="Parameters of all models.")
    dtype: str | None = Field(
        default=None,
        description="float32, float16 or bfloat16: what results are rounded to; by default the widest of the inputs'.",
    )
    out_dtype: str | None = Field(default=None, description="What tensors are stored as; `dtype` by default.")
    tokenizer_source: ModelReference | None = Field(
        default=None, description="The output's vocabulary: `union`, `base`, or one of the models."
    )
    tokenizer: Tokenizer | None = Field(
        default=None, description="Like `tokenizer_source`, with rules for single tokens."
    )
    chat_template: str | None = Field(
        default=None,
        description="`auto`, the one that most models have; `alpaca`, `chatml`, `exaone`, `llama3`, `mistral`; or the "
        "text of a template in Jinja.",
    )
    name: str | None = Field(
        default=None, description="Of a recipe with several documents: what the others call this one's result."
    )
    random_seed: int | None = Field(
        default=None,
        description="Accepted for mergekit's recipes, where it does nothing either; `--seed` sets the seed.",
    )
    include: str | list[str] | None = Field(
        default=None, description="Files beside this one whose keys it has, unless it says otherwise."
    )

    @model_validator(mode="before")
    @classmethod
    def _what_stands_elsewhere(cls, value: Any) -> Any:
        _refuse_parameters(value, cls.model_fields, "`parameters`")
        return value

    @field_validator("dtype", "out_dtype")
    @classmethod
    def _known_dtype(cls, value: str | None) -> str | None:
        if value is None:
            return None
        name = value.removeprefix("torch.")
        if name not in DTYPES:
            raise ValueError(f"unknown dtype {value!r}; known: {', '.join(DTYPES)}")
        return name

    @model_validator(mode="after")
    def _one_kind(self) -> RecipeSchema:
        given = [key for key in ("models", "slices", "modules") if getattr(self, key) is not None]
        if len(given) != 1:
            has = f"this one has {' and '.join(given)}" if given else "this one has none"
            raise ValueError(f"a recipe has exactly one of 'models', 'slices' and 'modules'; {has}")
        if self.tokenizer and self.tokenizer_source:
            raise ValueError("a recipe has one of 'tokenizer' and 'tokenizer_source'")
        return self
