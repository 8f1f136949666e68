"""A merge recipe as mergekit writes it (https://github.com/arcee-ai/mergekit#merge-configuration)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DTYPES = ("float32", "float16", "bfloat16")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(_Strict):
    """One model of `models`, with its own parameters."""

    model: str
    parameters: dict[str, Any] = Field(default_factory=dict)

    @field_validator("parameters", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return {} if value is None else value


class SliceSource(ModelEntry):
    """Layers `layer_range[0]` to `layer_range[1]` (exclusive) of one model."""

    layer_range: tuple[int, int]

    @field_validator("layer_range")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1]:
            raise ValueError(f"layer_range {list(value)} holds no layer; it is [first, last + 1]")
        return value


class Slice(_Strict):
    """A run of output layers, each merged from the same number of layers of every source."""

    sources: list[SliceSource] = Field(min_length=1)
    base_model: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class TokenRule(_Strict):
    """Where the embedding of one token comes from: a model, one token of a model, or zeros (mergekit's forms)."""

    source: str | dict[str, Any] | None = None
    force: bool = False


class Tokenizer(_Strict):
    """The vocabulary of the merged model: `union`, `base` or a model's, with rules for single tokens."""

    source: str = "union"
    tokens: dict[str, TokenRule] = Field(default_factory=dict)
    pad_to_multiple_of: int | None = Field(default=None, ge=1)


class Recipe(_Strict):
    """Top level. Exactly one of `models` and `slices`."""

    merge_method: str
    models: list[ModelEntry] | None = Field(default=None, min_length=1)
    slices: list[Slice] | None = Field(default=None, min_length=1)
    base_model: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None
    tokenizer: Tokenizer | None = None

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
    def _one_kind(self) -> Recipe:
        if (self.models is None) == (self.slices is None):
            raise ValueError("a recipe has exactly one of 'models' and 'slices'")
        if self.tokenizer and self.tokenizer_source:
            raise ValueError("a recipe has one of 'tokenizer' and 'tokenizer_source'")
        return self
