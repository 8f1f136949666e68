"""An adapter on a model, under whichever of the names of its family it was trained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo
from weightsmith.checkpoint.views.adapters.adapted import AdaptedCheckpoint
from weightsmith.checkpoint.views.adapters.changes import (
    AddLowRank,
    AddLowRankExperts,
    AddVector,
    Change,
    Dora,
    Replace,
    ReplaceRows,
    Scale,
)
from weightsmith.checkpoint.views.adapters.low_rank import LowRank, read_gguf_adapter
from weightsmith.checkpoint.views.adapters.peft_adapter import PeftAdapter, read_peft_adapter
from weightsmith.checkpoint.views.row_mapped import RowMap, RowMappedCheckpoint, ordered
from weightsmith.errors import CheckpointError
from weightsmith.models.configs.layer_settings import reordered
from weightsmith.models.naming.detect import schemes_of
from weightsmith.models.naming.expert_forms import as_fused, as_split, expert_form
from weightsmith.models.naming.framework_prefixes import core_name, match_names
from weightsmith.models.naming.map_tensors import map_rows, map_rows_back
from weightsmith.models.naming.scheme import Scheme
from weightsmith.models.parts.embeddings import embedding_name, is_tied, output_name, untied
from weightsmith.models.parts.stacks import find_stacks

# Classes whose linear layers are Conv1D, stored [in, out], and which of their modules are.
_CONV1D_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "gptsan", "clvp_decoder")
_CONV1D = re.compile(r".*\.(c_attn|c_proj|c_fc|q_attn)\.weight")


_ANY = TensorInfo((), "F32")


@dataclass(frozen=True)
class Adapted:
    """A model with an adapter on it. `notes`: what was done for it, in words."""

    checkpoint: Checkpoint
    config: dict[str, Any]
    rank: int
    notes: tuple[str, ...] = ()


@dataclass
class _Changes:
    """By the base's names; `origins`: new tensor -> the one it is before its changes."""

    by_name: dict[str, list[Change]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, change: Change) -> None:
        self.by_name.setdefault(name, []).append(change)


def with_adapter(base: Checkpoint, config: dict[str, Any], home: Path, adapter: Path) -> Adapted:
    """`base` with the adapter added. An adapter in names of an old layout is added to the base seen in that layout, and
    the sum is seen in today's again: rows move, no number changes. Raises CheckpointError."""
    read = _read(adapter)
    form = expert_form(base.tensors)
    if read.experts and form.split and (fused := as_fused(base, None, config)):
        tuned = _added(read, fused, config, home, adapter)
        back = as_split(tuned.checkpoint, form, config)
        return replace(tuned, checkpoint=back) if back else tuned
    if form.fused and (trained := expert_form(dict.fromkeys(read.names, _ANY))).split:
        split = as_split(base, trained, config)
        if split:
            tuned = _added(read, split, config, home, adapter)
            back = as_fused(tuned.checkpoint, base.tensors, config)
            return replace(tuned, checkpoint=back) if back else tuned
    return _added(read, base, config, home, adapter)


def _added(read: PeftAdapter, base: Checkpoint, config: dict[str, Any], home: Path, adapter: Path) -> Adapted:
    notes: list[str] = []
    if ranges := read.config.get("layer_replication"):
        base, config = _replicated(base, config, adapter, ranges)
        notes.append(f"layers repeated as the adapter's layer_replication says: {ranges}")
    names = match_names(read.names, base.tensors)
    unmatched = read.names - names.keys()
    if unmatched and not read.experts and (layout := layout_with(read.names, base, config, home)):
        scheme, in_old_layout = layout
        changes = _bind(read, in_old_layout, config, {name: name for name in read.names})
        tuned = AdaptedCheckpoint(in_old_layout, changes.by_name, adapter)
        back, _ = map_rows(scheme, home, tuned.tensors, config)
        view = RowMappedCheckpoint(tuned, {n: back[n] for n in base.tensors})
        return Adapted(
            view, config, read.rank, (f"an adapter in {scheme.name} naming, added to the rows it was trained on",)
        )
    names |= _of_untied_output(unmatched, base, config)
    for name in sorted(read.names - names.keys()):
        if not (name in read.replaced and _is_head(name)):
            raise CheckpointError(f"{adapter}: adapts {name!r}, which the base model does not have", path=adapter)
        names[name] = name
    changes = _bind(read, base, config, names)
    config, more = _consequences(read, changes, base, config, names)
    view = AdaptedCheckpoint(base, changes.by_name, adapter, changes.origins)
    return _with_head(Adapted(view, config, read.rank, (*notes, *more)), read, base)


def layout_with(
    names: set[str], base: Checkpoint, config: dict[str, Any], home: Path
) -> tuple[Scheme, RowMappedCheckpoint] | None:
    """The old layout of the family that has all of `names`, and `base` seen in it; None where there is none."""
    for scheme in schemes_of(config):
        if scheme.same_names:
            continue
        try:
            in_old_layout = RowMappedCheckpoint(base, map_rows_back(scheme, home, base.tensors, config))
        except CheckpointError:
            continue  # the base has tensors that this layout has no place for
        if names <= in_old_layout.tensors.keys():
            return scheme, in_old_layout
    return None


def _read(adapter: Path) -> PeftAdapter:
    if adapter.is_dir():
        return read_peft_adapter(adapter)
    low_rank = read_gguf_adapter(adapter)
    pairs: dict[str, tuple[LowRank, Any]] = {name: (pair, None) for name, pair in low_rank.items()}
    rank = max((len(pair.a) for pair in low_rank.values()), default=0)
    return PeftAdapter(adapter, {}, _Nothing(), linear=pairs, rank=rank)


class _Nothing:
    """A checkpoint without tensors."""

    tensors: Mapping[str, TensorInfo] = {}

    def read(self, name: str, start: int, stop: int, out: Any) -> None:
        raise KeyError(name)


def _of_untied_output(names: set[str], base: Checkpoint, config: Mapping[str, Any]) -> dict[str, str]:
    """Names of the output matrix, where the base ties it to its embedding and stores none."""
    embedding = embedding_name(base.tensors)
    if not embedding or output_name(base.tensors) or not is_tied(config):
        return {}
    front = "language_model." if embedding.startswith("language_model.") else ""
    return {name: f"{front}lm_head.weight" for name in names if name.endswith("lm_head.weight")}


def _bind(read: PeftAdapter, base: Checkpoint, config: Mapping[str, Any], names: Mapping[str, str]) -> _Changes:
    changes = _Changes()
    for name, key in (*read.resized.items(), *read.replaced.items()):
        changes.add(names[name], Replace(read.weights, key))
    for name, (low_rank, magnitude) in read.linear.items():
        target = names[name]
        transposed = is_conv1d(target, config)
        made = (low_rank.transposed if transposed else low_rank).change()
        changes.add(target, made if magnitude is None else Dora(made, magnitude, transposed))
    for name, (low_rank, magnitude) in read.embedding.items():
        made = low_rank.change()
        changes.add(names[name], made if magnitude is None else Dora(made, magnitude, by_column=True))
    for module, pairs in read.experts.items():
        for target, change in _of_experts(read, module, pairs, base):
            changes.add(target, change)
    for name, (indices, values) in read.tokens.items():
        changes.add(names[name], ReplaceRows(indices, values))
    for name, vector in read.biases.items():
        changes.add(names[name], AddVector(vector))
    for name, matrix in read.matrices.items():
        changes.add(names[name], matrix)
    for name, factors in read.scales.items():
        _scale(changes, names[name], factors, base, config)
    return changes


def is_conv1d(name: str, config: Mapping[str, Any]) -> bool:
    """peft decides by the module, whatever `fan_in_fan_out` says."""
    return config.get("model_type") in _CONV1D_TYPES and _CONV1D.fullmatch(name) is not None


def _scale(changes: _Changes, name: str, factors: Any, base: Checkpoint, config: Mapping[str, Any]) -> None:
    """IA3: a factor for each input ([1, in], of a feedforward module) or each output ([out, 1]), whose bias it scales
    too."""
    by_input, flat = factors.shape[0] == 1 and factors.shape[-1] != 1, factors.reshape(-1)
    changes.add(name, Scale(flat, by_column=by_input != is_conv1d(name, config)))
    bias = name.removesuffix("weight") + "bias"
    if not by_input and bias in base.tensors:
        changes.add(bias, Scale(flat, by_column=False))


def _of_experts(read: PeftAdapter, module: str, pairs: list[Any], base: Checkpoint) -> Iterable[tuple[str, Change]]:
    """LoRA of parameters: which one a pair is of, its shapes tell; those of one shape are nested in their order, the
    first one deepest."""
    targets = [target.rpartition(".")[2] for target in read.config.get("target_parameters") or []]
    core = core_name(module)
    parameters = [
        name
        for name, info in base.tensors.items()
        if name.rpartition(".")[2] in targets
        and core_name(name.rpartition(".")[0]) == core
        and len(info.shape) in (2, 3)
    ]
    parameters.sort(key=lambda name: ("down" in name, name))  # as classes declare them
    free = list(parameters)
    for _, a, b, scale in sorted(pairs, key=lambda pair: -pair[0]):
        for name in free:
            if change := _expert_change(a, b, scale, base.tensors[name].shape):
                free.remove(name)
                yield name, change
                break
        else:
            there = ", ".join(f"{name} {list(base.tensors[name].shape)}" for name in parameters) or "none of them"
            raise CheckpointError(
                f"{read.path}: adapts parameters of {module!r} with A {list(a.shape)} and B {list(b.shape)}; the base "
                f"has {there}, which does not fit; it was made for another model",
                path=read.path,
            )


def _expert_change(a: Any, b: Any, scale: float, shape: tuple[int, ...]) -> Change | None:
    """Of a parameter [experts, rows, width]: since peft 0.19 A reads `width` and B writes `rows`, before it was the
    other way round; some classes keep that."""
    if len(shape) == 2:
        return AddLowRank(b * scale, a) if (b.shape[0], a.shape[1]) == shape else None
    experts, rows, width = shape
    if len(a) % experts or len(a) != b.shape[1]:
        return None
    a = a.reshape(experts, -1, a.shape[1])
    b = b.reshape(b.shape[0], -1, experts).permute(2, 0, 1)
    if (b.shape[1], a.shape[2]) == (rows, width):
        return AddLowRankExperts((b * scale).contiguous(), a)
    if (a.shape[2], b.shape[1]) == (rows, width):
        return AddLowRankExperts((a.transpose(1, 2) * scale).contiguous(), b.transpose(1, 2).contiguous())
    return None


def _consequences(
    read: PeftAdapter, changes: _Changes, base: Checkpoint, config: dict[str, Any], names: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """(the configuration with the adapter, notes): a tied output matrix that is changed apart from the embedding, and
    another vocabulary."""
    notes = []
    embedding, output = embedding_name(base.tensors), output_name(base.tensors)
    rows = next(
        (change.info.shape[0] for change in changes.by_name.get(embedding or "", []) if isinstance(change, Replace)),
        None,
    )
    if rows and embedding and rows != base.tensors[embedding].shape[0]:
        config = _with_rows(config, rows)
        notes.append(f"the adapter's vocabulary: {rows} rows, the base has {base.tensors[embedding].shape[0]}")
    if output or not embedding or not is_tied(config):
        return config, notes
    own = next((name for name in changes.by_name if name.endswith("lm_head.weight")), None)
    apart = {names[name] for name in (*read.replaced, *read.embedding, *read.linear) if name in names}
    if read.config.get("ensure_weight_tying") or not apart & {embedding, own}:
        if own:
            del changes.by_name[own]  # the embedding once more
        return config, notes
    front = "language_model." if embedding.startswith("language_model.") else ""
    changes.origins[own or f"{front}lm_head.weight"] = embedding
    notes.append("the adapter changes only one of embedding and output matrix, which the base ties: read as untied")
    return untied(config), notes


def _with_rows(config: dict[str, Any], rows: int) -> dict[str, Any]:
    part = config.get("text_config")
    if isinstance(part, dict) and "vocab_size" in part:
        return {**config, "text_config": {**part, "vocab_size": rows}}
    return {**config, "vocab_size": rows}


def _is_head(name: str) -> bool:
    return name.split(".")[0] in ("score", "classifier", "v_head", "summary") or name.startswith("classification_head.")


def _with_head(adapted: Adapted, read: PeftAdapter, base: Checkpoint) -> Adapted:
    """A head for classification in place of the output matrix: the class that the adapter was trained in."""
    heads = [name for name in read.replaced if _is_head(name) and name not in base.tensors]
    if not heads:
        return adapted
    score = next((name for name in heads if name.endswith("weight")), heads[0])
    output = output_name(base.tensors)
    kept = {name: RowMap((name,)) for name in adapted.checkpoint.tensors if name != output}
    classes = adapted.config.get("architectures") or [""]
    architecture = re.sub(r"(ForCausalLM|LMHeadModel|Model)$", "", str(classes[0])) + "ForSequenceClassification"
    labels = adapted.checkpoint.tensors[score].shape[0]
    config = {
        **adapted.config,
        "architectures": [architecture],
        "num_labels": labels,
        "id2label": {str(n): f"LABEL_{n}" for n in range(labels)},
        "label2id": {f"LABEL_{n}": n for n in range(labels)},
    }
    note = f"the adapter's head {score}, in place of the output matrix: {architecture}"
    view = RowMappedCheckpoint(adapted.checkpoint, ordered(kept))
    return Adapted(view, config, adapted.rank, (*adapted.notes, note))


def _replicated(
    base: Checkpoint, config: dict[str, Any], adapter: Path, ranges: Any
) -> tuple[Checkpoint, dict[str, Any]]:
    """Layers `ranges` ([first, behind the last] each) in place of the base's, as peft's layer_replication does."""
    stack = find_stacks(base.tensors, config).main
    try:
        taken = [n for first, last in ranges for n in range(first, last)]
        if stack is None or not stack.keys or not all(0 <= n < stack.depth for n in taken):
            raise ValueError
        if len(stack.keys[0]) != 1:
            raise ValueError
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{adapter}: layer_replication is {ranges!r}, which does not fit the base's layers", path=adapter
        ) from None
    maps = {name: RowMap((name,)) for name in base.tensors if not name.startswith(stack.prefix)}
    for new, old in enumerate(taken):
        for suffix in stack.suffixes[stack.numbers[0] + old]:
            source = f"{stack.prefix}{stack.numbers[0] + old}{suffix}"
            maps[f"{stack.prefix}{stack.numbers[0] + new}{suffix}"] = RowMap((source,))
    settings, problem = reordered(config, stack.depth, taken)
    if problem:
        raise CheckpointError(f"{adapter}: layer_replication: {problem}", path=adapter)
    counted = {keys[-1]: len(taken) for keys in stack.keys}
    return RowMappedCheckpoint(base, ordered(maps)), {**config, **settings, **counted}
