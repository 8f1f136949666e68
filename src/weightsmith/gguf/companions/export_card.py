"""The model card of a folder of GGUF files."""

from __future__ import annotations

from pathlib import Path

from weightsmith.engine.output.merge_card import describe_origins
from weightsmith.gguf.conversion.conversion import PLAIN_TYPES
from weightsmith.gguf.conversion.export_source import ExportSource
from weightsmith.gguf.fidelity import Fidelity, describe_fidelity
from weightsmith.gguf.manifest import Manifest, ManifestEntry
from weightsmith.methods.registry import find_method
from weightsmith.model_card.card import Card, CardResults, GgufFile, write_card
from weightsmith.model_card.describe_inputs import describe_inputs
from weightsmith.model_card.provenance import Provenance, read_provenance
from weightsmith.model_card.public_recipe import public_recipe
from weightsmith.model_card.usage import usage_of_gguf


def provenance_of(source: ExportSource, threads: int) -> Provenance:
    """What an export is made from: a merge's inputs, also of one that `merge` wrote, or the model itself. Raises
    OSError."""
    architectures = tuple(map(str, source.config.get("architectures") or ()))
    if source.plan:
        recipe = public_recipe(source.plan.recipe, source.plan.origins)
        seed = source.seed if source.method.random else None
        return Provenance(
            source.method.name, recipe, describe_origins(source.plan, threads), seed, architectures=architectures
        )
    written = read_provenance(source.home.home) if source.files == (source.home.home,) else None
    return written or Provenance(None, None, describe_inputs([source.home], threads=threads), None, architectures)


def write_export_card(
    folder: Path,
    name: str,
    provenance: Provenance,
    *,
    main_file: str,
    chat: bool,
    of_merged_folder: bool,
    results: CardResults | None = None,
) -> bool:
    """Write `README.md` for the files of the folder's manifest; False where there is one that somebody edited.
    `name`: the model's; `main_file`: the one that the code loads; `of_merged_folder`: they were made from a merge on
    the disk, which is what they are a quantized form of, and which has no id. Raises OSError."""
    method = find_method(provenance.method) if provenance.method else None
    entries = [entry for entry in Manifest(folder).entries.values() if entry.file.endswith(".gguf")]
    card = Card(
        f"{name}-GGUF",
        "quantized",
        provenance,
        method.title if method else provenance.method,
        method.paper_address if method else None,
        usage_of_gguf(main_file, chat=chat),
        tuple(GgufFile(entry.file, entry.bytes, entry.sha256, _how(entry)) for entry in entries),
        results,
        base_models=() if of_merged_folder else None,
    )
    return write_card(folder, card)


def _how(entry: ManifestEntry) -> str:
    made = "llama.cpp's converter" if entry.type in PLAIN_TYPES else "llama.cpp's quantizer"
    fidelity = entry.measured.get("fidelity")
    if isinstance(fidelity, dict):
        fidelity = Fidelity(**fidelity)
    return f"{made}; {describe_fidelity(fidelity)}" if fidelity else made
