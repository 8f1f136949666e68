"""Tensors into the shards of a scratch folder, each noted in the journal when it is on the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.engine.journal import Journal, Record
from weightsmith.engine.resumable_folder import Scratch
from weightsmith.engine.run_plan import NotFinite, Progress, Tally
from weightsmith.recipe.plan import TensorPlan

# (tensors that are left, the shards, progress, what to call for each finished tensor) -> what was counted
Runner = Callable[[Sequence[TensorPlan], ShardWriter, Progress, Callable[[str, Tally], None]], Tally]


def run_journaled(
    scratch: Scratch, run: Mapping[str, str], tensors: Sequence[TensorPlan], shard_bytes: int, progress: Progress | None,
    runner: Runner,
) -> Tally:  # fmt: skip
    """Have `runner` make what an earlier run has not finished. `run` is what the journal says the run is. The shards are on the
    disk afterwards; the tally is that of all tensors, those of the earlier run included, and `progress` counts them too."""
    infos = {tensor.name: tensor.info for tensor in tensors}
    writer = ShardWriter(scratch.folder, infos, shard_bytes, continued=scratch.continued)
    journal = Journal(scratch.folder, run, writer.sync, continued=scratch.continued)
    left = [tensor for tensor in tensors if tensor.name not in scratch.finished]
    already = sum(infos[name].nbytes for name in scratch.finished)

    def shown(done: int, total: int) -> None:
        if progress:
            progress(done + already, total + already)

    def on_tensor(name: str, one: Tally) -> None:
        journal.finished(_record(name, one))

    try:
        tally = runner(left, writer, shown, on_tensor)
    except BaseException:
        journal.abandon()
        writer.close(sync=False)
        raise
    journal.close()
    writer.close(sync=True)
    for record in scratch.finished.values():
        tally.add(_tally(record))
    return tally


def _record(name: str, one: Tally) -> Record:
    """A finished tensor as a line of the journal."""
    found = [[n.model, n.nan, n.infinite] for n in one.not_finite]
    return {"tensor": name, "digest": one.digests[name], "ties": one.ties, "not_finite": found}


def _tally(record: Record) -> Tally:
    found = [NotFinite(record["tensor"], *entry) for entry in record["not_finite"]]
    return Tally(record["ties"], {record["tensor"]: record["digest"]}, found)
