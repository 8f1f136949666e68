"""The stage of a run that writes what was measured into the model cards of its outputs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weightsmith.evaluation.results.score_tables import EvaluationTables
from weightsmith.files.inputs.yaml_file import read_yaml
from weightsmith.files.markdown import markdown_text
from weightsmith.gguf.companions.export_card import write_export_card
from weightsmith.gguf.conversion.conversion import PLAIN_TYPES
from weightsmith.methods.registry import find_method
from weightsmith.model_card.card import Card, CardResults, write_card
from weightsmith.model_card.describe_inputs import CARD
from weightsmith.model_card.provenance import Provenance, read_provenance
from weightsmith.model_card.usage import has_chat_template, usage_of_folder
from weightsmith.pipeline.pipeline_file import MERGED
from weightsmith.pipeline.stages import HUB_RESULTS, Stages
from weightsmith.report.evaluation_files import EVAL_RESULTS, MODEL_INDEX, safe_name


def run_card_stage(
    out: Path,
    stages: Stages,
    exports: Mapping[str, Path],
    scored: Mapping[str, str],
    tables: EvaluationTables | None,
    log: Callable[[str], None],
) -> None:
    """`exports`: type -> file; `scored`: label -> reference, as in the pipeline. Writes merged/README.md, .eval_results
    beside it, and gguf/README.md. Cards that somebody edited stay."""
    merged, gguf = out / "merged", out / "gguf"
    provenance = read_provenance(merged)
    if provenance is None:
        return

    def work() -> dict[str, Any]:
        labels = [label for label, reference in scored.items() if reference == MERGED]
        written = _write_merged(merged, out.name, provenance, _results(out, tables, labels))
        _copy_hub_results(out, labels, merged)
        if exports:
            main = next((gguf_type for gguf_type in exports if gguf_type not in PLAIN_TYPES), next(iter(exports)))
            of_files = [label for label, reference in scored.items() if reference == f"${main}"]
            others = [label for label, ref in scored.items() if ref in {f"${gguf_type}" for gguf_type in exports}]
            written &= write_export_card(
                gguf,
                out.name,
                provenance,
                main_file=exports[main].name,
                chat=has_chat_template(merged),
                of_merged_folder=True,
                results=_results(out, tables, of_files, others),
            )
        if not written:
            log("a model card was edited, and stays as it is")
        return {}

    depends = {
        "keys": [stage.key for stage in stages.done],
        "scored": dict(scored),
        "tables": tables.as_json() if tables else None,
        "name": out.name,
    }
    stages.run("card", depends, [merged / CARD, *([gguf / CARD] if exports else [])], work)


def _write_merged(folder: Path, name: str, provenance: Provenance, results: CardResults | None) -> bool:
    method = find_method(provenance.method) if provenance.method else None
    card = Card(
        name,
        "merge",
        provenance,
        method.title if method else provenance.method,
        method.paper_address if method else None,
        usage_of_folder(folder),
        results=results,
    )
    return write_card(folder, card)


def _results(
    out: Path, tables: EvaluationTables | None, labels: list[str], others: list[str] | None = None
) -> CardResults | None:
    """What was measured of the models `labels`, the first of which is the one in the head; `others`: also in the
    sentences."""
    if tables is None or not labels:
        return None
    spoken = [*labels, *(label for label in others or [] if label not in labels)]
    sentences = [
        f"{label}, {on}: {difference} against {other} (95 % interval {interval}): {verdict}"
        for suite in tables.suites
        for label, on, other, difference, interval, _, _, verdict in suite.differences[1:]
        if label in spoken
    ]
    parts = [
        f"### {markdown_text(suite.suite)}\n\n{markdown_text(suite.about)}\n\n{suite.to_markdown()}"
        for suite in tables.suites
    ]
    index = out / "evaluation" / safe_name(labels[0]) / MODEL_INDEX
    found = read_yaml(index).tree["model-index"][0]["results"] if index.is_file() else []
    return CardResults(found, tuple(sentences), "\n\n".join(parts))


def _copy_hub_results(out: Path, labels: list[str], merged: Path) -> None:
    """What the hub's leaderboards take, in place of an earlier run's."""
    shutil.rmtree(merged / HUB_RESULTS, ignore_errors=True)
    for label in labels[:1]:
        source = out / "evaluation" / safe_name(label) / EVAL_RESULTS
        if source.is_dir():
            shutil.copytree(source, merged / HUB_RESULTS)
