"""`weightsmith inspect`: what models are and whether they fit together, from headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weightsmith.architecture.layer_numbers import LAYER
from weightsmith.architecture.open_model import Model, open_model
from weightsmith.architecture.tied import EMBEDDINGS, OUTPUTS
from weightsmith.checkpoint.gguf_file import GGUFFile

_SHOWN = 3  # tensor names per finding


@dataclass(frozen=True)
class ModelFacts:
    """One model. `dtypes` are those on disk, most frequent first; `vocabulary` is the number of embedding rows."""

    reference: str
    architecture: str
    naming: str
    layers: int
    parameters: int
    dtypes: tuple[str, ...]
    vocabulary: int | None
    tied: bool
    files: int
    bytes: int
    lora_rank: int | None
    ignored: tuple[str, ...]
    asks_for_code: bool  # config.json has an auto_map, which is never followed


@dataclass(frozen=True)
class Finding:
    """`kind`: `same`, `converted` (done by merge itself), `note`, or `blocks`; `model` is None where it is about all."""

    kind: str
    model: str | None
    text: str
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """All models, and how the others compare with the first."""

    models: tuple[ModelFacts, ...]
    findings: tuple[Finding, ...]

    @property
    def mergeable(self) -> bool:
        return not any(finding.kind == "blocks" for finding in self.findings)


def inspect(models: Sequence[str], *, beside: Path | None = None) -> Inspection:
    """Read the headers of `models`, the base first. Raises CheckpointError for a model that is broken."""
    opened = [open_model(reference, beside=beside) for reference in models]
    findings = [finding for model in opened for finding in _about(model)]
    for other in opened[1:]:
        findings += _compare(opened[0], other)
    if len(opened) > 1 and not any(f.kind == "blocks" for f in findings):
        findings.insert(0, Finding("same", None, f"{len(opened)} models can be merged"))
    return Inspection(tuple(map(_facts, opened)), tuple(findings))


def _facts(model: Model) -> ModelFacts:
    infos = model.checkpoint.tensors
    if model.is_gguf:
        dtypes, weights = tuple(GGUFFile(model.home).kinds()), [model.home]
    else:
        counted = Counter(info.dtype for info in infos.values())
        dtypes, weights = tuple(name for name, _ in counted.most_common()), sorted(model.home.glob("*.safetensors"))
    layers = {match[2] for name in infos if (match := LAYER.match(name))}
    return ModelFacts(
        reference=model.reference,
        architecture=(model.config.get("architectures") or [model.config.get("model_type", "unknown")])[0],
        naming=model.scheme.name if model.scheme else "transformers",
        layers=len(layers),
        parameters=sum(info.numel for info in infos.values()),
        dtypes=dtypes,
        vocabulary=_rows(infos, EMBEDDINGS),
        tied=_rows(infos, OUTPUTS) is None,
        files=len(weights),
        bytes=sum(path.stat().st_size for path in weights),
        lora_rank=max(model.lora_ranks, default=None),
        ignored=model.ignored,
        asks_for_code="auto_map" in _raw_config(model),
    )


def _raw_config(model: Model) -> dict:
    import json

    return {} if model.is_gguf else json.loads((model.home / "config.json").read_text(encoding="utf-8"))


def _rows(infos, names: tuple[str, ...]) -> int | None:
    return next((info.shape[0] for name, info in infos.items() if name.endswith(names) and info.shape), None)


def _about(model: Model) -> list[Finding]:
    found = []
    if model.conversion:
        found.append(Finding("converted", model.reference, model.conversion, model.ignored))
    if "auto_map" in _raw_config(model):
        found.append(Finding("note", model.reference, "its config.json names code (auto_map), which is never run"))
    return found


def _compare(base: Model, other: Model) -> list[Finding]:
    mine, theirs = base.checkpoint.tensors, other.checkpoint.tensors
    found: list[Finding] = []
    kinds = [model.config.get("model_type") for model in (base, other)]
    if kinds[0] != kinds[1]:
        found.append(
            Finding(
                "blocks",
                other.reference,
                f"it is a {kinds[1]} model, {base.reference} a {kinds[0]} model; choose one family",
            )
        )
        return found
    for names, where, remedy in (
        (mine.keys() - theirs.keys(), f"only in {base.reference}", "is it a whole checkpoint, of the same depth?"),
        (theirs.keys() - mine.keys(), f"only in {other.reference}", "was it extended, or is the base incomplete?"),
    ):
        output = {name for name in names if name.endswith(OUTPUTS)}
        if output:
            found.append(
                Finding("note", other.reference, f"the output matrix is {where}; the other ties it to the embedding")
            )
        if names - output:
            listed = tuple(sorted(names - output))
            found.append(Finding("blocks", other.reference, f"{len(listed)} tensors are {where}: {remedy}", listed))
    differing = {
        n: (mine[n].shape, theirs[n].shape) for n in mine.keys() & theirs.keys() if mine[n].shape != theirs[n].shape
    }
    vocabulary = {n: s for n, s in differing.items() if n.endswith((*EMBEDDINGS, *OUTPUTS)) and s[0][1:] == s[1][1:]}
    if vocabulary:
        rows = next(iter(vocabulary.values()))
        text = f"the vocabularies differ: {rows[0][0]} rows in {base.reference}, {rows[1][0]} in {other.reference}; resize one first"
        found.append(Finding("blocks", other.reference, text, tuple(sorted(vocabulary))))
    if others := {n: s for n, s in differing.items() if n not in vocabulary}:
        name = min(others)
        text = f"{len(others)} tensors have other shapes, such as {name}: {list(others[name][0])} and {list(others[name][1])}"
        found.append(
            Finding("blocks", other.reference, f"{text}; it is not a fine-tune of this base", tuple(sorted(others)))
        )
    dtypes = [_main_dtype(infos.values()) for infos in (mine, theirs)]
    if dtypes[0] != dtypes[1]:
        found.append(
            Finding(
                "note",
                other.reference,
                f"{dtypes[1]} weights beside the base's {dtypes[0]}: merged in float32, rounded to `dtype`",
            )
        )
    return found


def _main_dtype(infos) -> str:
    return Counter(info.dtype for info in infos).most_common(1)[0][0]


def shown_tensors(finding: Finding) -> str:
    """The first few tensor names of a finding."""
    more = len(finding.tensors) - _SHOWN
    return ", ".join(finding.tensors[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
