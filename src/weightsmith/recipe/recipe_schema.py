"""What a merge recipe may say, with mergekit's keys (https://github.com/arcee-ai/mergekit#merge-configuration)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from weightsmith.files.inputs.yaml_file import StrictModel

DTYPES = ("float32", "float16", "bfloat16")


class ModelEntry(StrictModel):
    """One model of `models`, with its own parameters."""

    model: str = Field(
        description="A folder, a GGUF file or a hub id (`owner/name@revision`), with `+ADAPTER` for a LoRA adapter."
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of this model; they win over those further out."
    )

    @field_validator("parameters", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return {} if value is None else value


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
    base_model: str | None = Field(default=None, description="The base model of this slice, instead of the recipe's.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Parameters of this slice.")


class TokenRule(StrictModel):
    """Where the embedding of one token comes from: a model, one token of a model, or zeros (mergekit's forms)."""

    source: str | dict[str, Any] | None = Field(
        default=None,
        description="A model; `{kind: model_token, model: M, token: T}` (or `token_id: N`); or `{kind: zero}`.",
    )
    force: bool = Field(default=False, description="Use it for the models that have the token, too.")


class Tokenizer(StrictModel):
    """The vocabulary of the merged model: `union`, `base` or a model's, with rules for single tokens."""

    source: str = Field(default="union", description="`union`, `base`, or one of the models.")
    tokens: dict[str, TokenRule] = Field(default_factory=dict, description="Where single tokens come from.")
    pad_to_multiple_of: int | None = Field(
        default=None, ge=1, le=65_536, description="Pad the vocabulary with zero rows to a multiple of this number."
    )


class RecipeSchema(StrictModel):
    """Top level. Exactly one of `models` and `slices`."""

    merge_method: str = Field(description="One of the [methods](methods.md).")
    models: list[ModelEntry] | None = Field(default=None, min_length=1, description="Whole models to merge.")
    slices: list[Slice] | None = Field(
        default=None, min_length=1, description="Runs of layers, stacked in this order to make the output."
    )
    base_model: str | None = Field(
        default=None,
        description="The model whose weights are subtracted to get task vectors; also the shape of the result.",
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="Parameters of all models.")
    dtype: str | None = Field(
        default=None,
        description="float32, float16 or bfloat16: what results are rounded to; by default the widest of the inputs'.",
    )
    out_dtype: str | None = Field(default=None, description="What tensors are stored as; `dtype` by default.")
    tokenizer_source: str | None = Field(
        default=None, description="The output's vocabulary: `union`, `base`, or one of the models."
    )
    tokenizer: Tokenizer | None = Field(
        default=None, description="Like `tokenizer_source`, with rules for single tokens."
    )

    @field_validator("parameters", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("dtype", "out_dtype")
    @classmethod
    def _known_dtype(cls, value: str | None) -> str | None:
        if value is not None and value not in DTYPES:
            raise ValueError(f"unknown dtype {value!r}; known: {', '.join(DTYPES)}")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> RecipeSchema:
        if (self.models is None) == (self.slices is None):
            raise ValueError("a recipe has exactly one of 'models' and 'slices'")
        if self.tokenizer and self.tokenizer_source:
            raise ValueError("a recipe has one of 'tokenizer' and 'tokenizer_source'")
        return self
