"""`weightsmith unify`: one model in the current naming of its `transformers` class, bit for bit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.engine.merge import DEFAULT_SHARD_BYTES
from weightsmith.engine.output.checksums import CHECKSUMS, is_written, write_checksums
from weightsmith.engine.output.input_stamps import InputStamps
from weightsmith.engine.output.journaled_run import run_journaled
from weightsmith.engine.output.resumable_folder import resumable_folder
from weightsmith.engine.output.run_digest import copy_digest, input_files, output_digest
from weightsmith.engine.run_tensors import OnBytes, Tally, run_tensors
from weightsmith.errors import CheckpointError
from weightsmith.files.inputs.read_input import read_text
from weightsmith.files.output_folder import check_output
from weightsmith.machine import available_cores
from weightsmith.methods.passthrough import Passthrough
from weightsmith.methods.tensor_settings import Settings
from weightsmith.models.fit_to_base import fit_to
from weightsmith.models.naming.translate_config import published
from weightsmith.models.open_model import in_layout, open_model
from weightsmith.planning.plan import TensorPlan, TensorSource
from weightsmith.progress import OnProgress, counted, no_progress
from weightsmith.tokenizer.tokenizer_files import bytes_beside_weights, write_tokenizer_files


@dataclass(frozen=True)
class UnifySummary:
    """`conversion` says what was done to names and rows; None: they were canonical. `done_already`: `out` held this
    very model, and nothing was written."""

    out: Path
    conversion: str | None
    left_out: dict[str, str]
    tensors: int
    written_bytes: int
    seconds: float
    resumed: int
    done_already: bool = False


def unify(
    model: Path | str,
    out: Path | str,
    *,
    threads: int | None = None,
    out_shard_size: int = DEFAULT_SHARD_BYTES,
    force: bool = False,
    restart: bool = False,
    to: str | None = None,
    like: Path | str | None = None,
    mapping: Path | None = None,
    accept_mapping: bool = False,
    on_progress: OnProgress = no_progress,
) -> UnifySummary:
    """Write the model `model` (any reference that `merge` takes) into the new folder `out`: canonical names and rows,
    the dtypes it has, config.json of the current class with no `auto_map`, its tokenizer files, and checksums. Streams;
    runs no code of the model's. `to` names an older layout to write instead, such as `phi-msft`. `like` names a model
    whose layout this one is brought to where nobody described its own: by the file `mapping`, or, with
    `accept_mapping`, by the values of its weights. A run that was interrupted or killed is continued by the same call;
    `restart` discards it. `on_progress` receives a `Progress` in bytes. Raises CheckpointError or OutputError, and then
    leaves nothing behind.

    >>> ws.unify("coder", "coder-unified").out.name
    'coder-unified'
    """
    started, out = time.monotonic(), Path(out)
    again = (out / CHECKSUMS).is_file() and not force  # perhaps this very model, finished
    if not again:
        check_output(out, force=force, inputs=None)
    opened = open_model(model)
    if opened.kept_because:
        raise CheckpointError(
            f"{opened.kept_because}. You can merge it with models of its own layout, but not unify it"
        )
    if like is not None:
        opened = fit_to(open_model(like), opened, mapping=mapping, accept=accept_mapping)
    elif mapping or accept_mapping:
        raise CheckpointError(
            f"{opened.reference}: a mapping needs the model whose names it maps to; name it with --like"
        )
    if to is not None:
        opened = in_layout(opened, to)
    no_settings = Settings({}, (), None)
    tensors = [
        TensorPlan(name, info, (TensorSource(opened, name),), no_settings, info.dtype, copy=True)
        for name, info in opened.checkpoint.tensors.items()
    ]
    total = sum(tensor.info.nbytes for tensor in tensors)
    request = [to, str(like) if like else None, read_text(mapping) if mapping else None, accept_mapping]
    run = copy_digest(opened, tensors, out_shard_size, request)
    inputs, written = [*opened.files, *([mapping] if mapping else [])], output_digest(run)
    if again and is_written(out, written, input_files([opened])):
        seconds = time.monotonic() - started
        return UnifySummary(out, opened.conversion, opened.left_out, len(tensors), total, seconds, 0, True)
    with resumable_folder(
        out,
        run,
        force=force,
        restart=restart,
        weights_bytes=total,
        beside=bytes_beside_weights(opened.home, len(tensors)),
        inputs=inputs,
    ) as scratch:

        def runner(
            unfinished: Sequence[TensorPlan],
            writer: ShardWriter,
            on_shard_progress: OnBytes,
            on_tensor: Callable[[str, Tally], None],
        ) -> Tally:
            return run_tensors(
                unfinished,
                Passthrough(),
                writer,
                threads or available_cores(),
                on_shard_progress,
                on_tensor=on_tensor,
                may_fork=True,
            )

        tally = run_journaled(
            scratch,
            run,
            tensors,
            out_shard_size,
            counted(on_progress, "unifying", "bytes"),
            runner,
            InputStamps([opened]),
        )
        write_tokenizer_files(opened, scratch.folder)
        config = published(opened.config, [t.info for t in tensors])
        (scratch.folder / opened.config_file).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_checksums(scratch.folder, tally.digests, written)
    return UnifySummary(
        out, opened.conversion, opened.left_out, len(tensors), total, time.monotonic() - started, len(scratch.finished)
    )
