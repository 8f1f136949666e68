"""`weightsmith inspect`: what models are and whether they fit together, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weightsmith.inspection.compare_models import Finding, about, compare
from weightsmith.inspection.model_facts import ModelFacts, model_facts
from weightsmith.models.fit_to_base import fit_text_parts, in_form_of, names_differ
from weightsmith.models.model import Model
from weightsmith.models.open_model import open_model
from weightsmith.progress import OnProgress, counted, no_progress

if TYPE_CHECKING:
    from weightsmith.inspection.movement import Movement
    from weightsmith.models.propose_mapping import Proposal


@dataclass(frozen=True)
class Inspection:
    """All models, and how the others compare with the first. `movement`: how far they moved from it, where that was
    asked for; `mappings`: for models in a layout nobody described, the content of a mapping file."""

    models: tuple[ModelFacts, ...]
    findings: tuple[Finding, ...]
    mappings: dict[str, str]
    movement: Movement | None = None

    @property
    def mergeable(self) -> bool:
        """Whether `merge` takes them as they are."""
        return not any(finding.severity == "blocks" for finding in self.findings)


def inspect(
    models: Sequence[Path | str],
    *,
    beside: Path | None = None,
    tokenizer_source: str | None = None,
    stats: bool = False,
    threads: int | None = None,
    on_progress: OnProgress = no_progress,
) -> Inspection:
    """Compare `models`, the base first, by their headers; a hub id's are fetched by range requests. Values are read in
    two cases: some rows of a model whose names are of no known layout, and with `stats` all weights, to say how far the
    others moved from the base and whether they pull in the same direction. `tokenizer_source` is what a recipe says of
    vocabularies. Raises CheckpointError for a model that is broken.

    >>> [finding.text for finding in ws.inspect(["base", "coder"]).findings]
    ['2 models can be merged']
    """
    references = dict.fromkeys(map(str, models))
    opened = {reference: open_model(reference, beside=beside, headers_only=not stats) for reference in references}
    facts = tuple(map(model_facts, opened.values()))
    comparable = fit_text_parts(opened)
    base, *rest = comparable.values()
    others = [in_form_of(base, other) or other for other in rest]
    findings = [finding for model in (base, *others) for finding in about(model)]
    mappings: dict[str, str] = {}
    for other in others:
        proposal = _proposal(base, other)
        if proposal and proposal.matches:
            mappings[other.reference] = proposal.as_file(str(base.config.get("model_type", "unknown")))
        findings += compare(base, other, proposal, tokenizer_source)
    if others and not any(f.severity == "blocks" for f in findings):
        findings.insert(0, Finding("same", None, f"{len(comparable)} models can be merged"))
    movement = None
    if stats and others:
        from weightsmith.inspection.movement import measure_movement

        movement = measure_movement(base, others, threads=threads, on_progress=counted(on_progress, "reading", "bytes"))
    return Inspection(facts, tuple(findings), mappings, movement)


def _proposal(base: Model, other: Model) -> Proposal | None:
    """Which names mean the same, where both models have names that the other lacks and no layout is known."""
    missing, more = names_differ(base, other)
    if not (missing and more) or base.headers_only or other.headers_only or other.scheme:
        return None
    from weightsmith.models.propose_mapping import propose_mapping

    return propose_mapping(base, other)
