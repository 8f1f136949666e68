"""Tensors into the shards of a scratch folder, each noted in the journal when it is on the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.engine.output.input_stamps import InputStamps
from weightsmith.engine.output.journal import Journal, Record
from weightsmith.engine.output.resumable_folder import Scratch
from weightsmith.engine.run_tensors import NotFinite, OnBytes, Tally
from weightsmith.planning.plan import TensorPlan

# (tensors that are left, the shards, progress, what to call for each finished tensor) -> what was counted
Runner = Callable[[Sequence[TensorPlan], ShardWriter, OnBytes, Callable[[str, Tally], None]], Tally]


def run_journaled(
    scratch: Scratch,
    run: Mapping[str, str],
    tensors: Sequence[TensorPlan],
    shard_bytes: int,
    on_progress: OnBytes | None,
    runner: Runner,
    inputs: InputStamps,
) -> Tally:
    """Have `runner` make what an earlier run has not finished. `run` is what the journal says the run is. The shards
    are on the disk afterwards; the tally is that of all tensors, those of the earlier run included, and `on_progress`
    counts them too. What an earlier run finished is read again, and made again where it is not what the journal says.
    Raises MergeError where a file of `inputs` changes, OutputError where a shard is removed."""
    infos = {tensor.name: tensor.info for tensor in tensors}
    writer = ShardWriter(scratch.folder, infos, shard_bytes, resumed=scratch.resumed)
    journal = Journal(scratch.folder, run, writer.sync, resumed=scratch.resumed)
    finished = {
        name: record
        for name, record in scratch.finished.items()
        if name in infos and writer.digest(name) == record["digest"]
    }
    unfinished = [tensor for tensor in tensors if tensor.name not in finished]
    finished_bytes = sum(infos[name].nbytes for name in finished)

    def on_total_progress(done: int, total: int) -> None:
        if on_progress:
            on_progress(done + finished_bytes, total + finished_bytes)

    def on_tensor(name: str, tensor_tally: Tally) -> None:
        inputs.check()
        journal.finished(_record(name, tensor_tally))

    try:
        tally = runner(unfinished, writer, on_total_progress, on_tensor)
    except BaseException:
        journal.abandon()
        writer.close(sync=False)
        raise
    journal.close()
    inputs.check()
    writer.check_there()
    writer.close(sync=True)
    for record in finished.values():
        tally.add(_tally(record))
    return tally


def _record(name: str, tensor_tally: Tally) -> Record:
    """A finished tensor as a line of the journal."""
    counts = [[n.model, n.nan, n.infinite] for n in tensor_tally.not_finite]
    record = {"tensor": name, "digest": tensor_tally.digests[name], "ties": tensor_tally.ties, "not_finite": counts}
    return record | ({"lost": tensor_tally.lost} if tensor_tally.lost else {})


def _tally(record: Record) -> Tally:
    counts = [NotFinite(record["tensor"], *entry) for entry in record["not_finite"]]
    lost = {name: (change, part) for name, (change, part) in record.get("lost", {}).items()}
    return Tally(record["ties"], {record["tensor"]: record["digest"]}, counts, lost)
