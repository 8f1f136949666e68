"""Every reader of a file that somebody else made, as a function of the file's bytes and an empty folder to put it in.

Each may raise WeightsmithError and nothing else.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile import builders
from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.checkpoint.formats.pytorch_file import PyTorchFile
from weightsmith.checkpoint.formats.safetensors_file import SafetensorsFile
from weightsmith.checkpoint.views.adapters.peft_adapter import read_peft_adapter
from weightsmith.checkpoint.weights_folder import parse_index
from weightsmith.engine.output.checksums import is_written, read_checksums
from weightsmith.engine.output.journal import read_journal
from weightsmith.evaluation.tasks.question_task import Questions
from weightsmith.evaluation.tasks.suite import load_suite
from weightsmith.files.digests import FileDigests
from weightsmith.files.inputs.read_input import read_text
from weightsmith.files.inputs.yaml_file import read_yaml
from weightsmith.gguf.manifest import Manifest
from weightsmith.gguf.quantization.importance import Importance, read_importance
from weightsmith.models.companion_files import check_tokenizer
from weightsmith.models.fit_to_base import read_mapping
from weightsmith.models.open_model import open_model
from weightsmith.pipeline.pipeline_file import Pipeline
from weightsmith.recipe.recipe import load_recipe
from weightsmith.recipe_search.search_file import SearchFile
from weightsmith.recipe_search.space import find_spaces
from weightsmith.tokenizer.gguf_tokenizer import tokenizer_from_gguf
from weightsmith.tokenizer.sentencepiece.sentencepiece_file import read_sentencepiece
from weightsmith.tokenizer.vocabulary import read_vocabulary

_MOST_READ = 1 << 16  # elements of a tensor


def _put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _read_some(checkpoint: Checkpoint) -> None:
    import numpy as np

    for name, info in list(checkpoint.tensors.items())[:8]:
        if 0 < info.numel <= _MOST_READ:
            checkpoint.read(name, 0, info.numel, np.empty(info.numel, info.numpy_dtype))


def _safetensors(content: bytes, folder: Path) -> None:
    _read_some(SafetensorsFile(_put(folder, "model.safetensors", content)))


def _index(content: bytes, folder: Path) -> None:
    path = _put(folder, "model.safetensors.index.json", content)
    parse_index(path, read_text(path))


def _pytorch(content: bytes, folder: Path) -> None:
    _read_some(PyTorchFile(_put(folder, "pytorch_model.bin", content)))


def _pickle(content: bytes, folder: Path) -> None:
    _, storages = builders.torch_weights(1)
    _pytorch(builders.torch_archive(content, storages), folder)


def _gguf(content: bytes, folder: Path) -> None:
    file = GGUFFile(_put(folder, "x.gguf", content))
    _read_some(file)
    tokenizer_from_gguf(file)


def _gguf_model(content: bytes, folder: Path) -> None:
    open_model(str(_put(folder, "x.gguf", content)))


def _importance(content: bytes, folder: Path) -> None:
    read_importance(_put(folder, "imatrix.gguf", content))


def _importance_dat(content: bytes, folder: Path) -> None:
    read_importance(_put(folder, "imatrix.dat", content))


def _adapter(content: bytes, folder: Path) -> None:
    builders.write_adapter(folder / "adapter")
    _put(folder / "adapter", "adapter_config.json", content)
    read_peft_adapter(folder / "adapter")


def _config(content: bytes, folder: Path) -> None:
    builders.write_model(folder / "model", 0)
    _put(folder / "model", "config.json", content)
    open_model(str(folder / "model"))


def _tokenizer(content: bytes, folder: Path) -> None:
    builders.write_model(folder / "model", 0)
    _put(folder / "model", "tokenizer.json", content)
    check_tokenizer(folder / "model")
    read_vocabulary(open_model(str(folder / "model")))


def _sentencepiece(content: bytes, folder: Path) -> None:
    read_sentencepiece(_put(folder, "tokenizer.model", content))


def _recipe(content: bytes, folder: Path) -> None:
    load_recipe(_put(folder, "r.yml", content))


def _pipeline(content: bytes, folder: Path) -> None:
    read_yaml(_put(folder, "p.yml", content)).validate(Pipeline)


def _search(content: bytes, folder: Path) -> None:
    file = read_yaml(_put(folder, "s.yml", content))
    file.validate(SearchFile)
    find_spaces(file.part("recipe"))


def _suite(content: bytes, folder: Path) -> None:
    load_suite(str(_put(folder, "s.yaml", content)))


def _mapping(content: bytes, folder: Path) -> None:
    read_mapping(_put(folder, "m.json", content))


def _questions(content: bytes, folder: Path) -> None:
    Questions(_put(folder, "q.jsonl", content))


def _journal(content: bytes, folder: Path) -> None:
    _put(folder, "journal.jsonl", content)
    read_journal(folder)


def _checksums(content: bytes, folder: Path) -> None:
    path = _put(folder, "checksums.json", content)
    is_written(folder, "run", [folder])
    read_checksums(path)


def _digests(content: bytes, folder: Path) -> None:
    path = _put(folder, ".digests.json", content)
    FileDigests(path).of(path)


def _manifest(content: bytes, folder: Path) -> None:
    _put(folder, "manifest.json", content)
    Manifest(folder)


READERS: dict[str, Callable[[bytes, Path], None]] = {
    "safetensors": _safetensors,
    "index": _index,
    "pytorch": _pytorch,
    "pickle": _pickle,
    "gguf": _gguf,
    "gguf_model": _gguf_model,
    "importance": _importance,
    "importance_dat": _importance_dat,
    "adapter": _adapter,
    "config": _config,
    "tokenizer": _tokenizer,
    "sentencepiece": _sentencepiece,
    "recipe": _recipe,
    "pipeline": _pipeline,
    "search": _search,
    "suite": _suite,
    "mapping": _mapping,
    "questions": _questions,
    "journal": _journal,
    "checksums": _checksums,
    "digests": _digests,
    "manifest": _manifest,
}


def seeds(name: str) -> Iterator[bytes]:
    """Good files to begin with."""
    recipe = builders.recipe("good", "other")
    pickled, storages = builders.torch_weights(0)
    search = {
        "recipe": {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": {"uniform": [0, 1]}}}]}
    }
    suite = {"name": "s", "about": "", "source": "", "parts": [{"name": "p", "tasks": [{"questions": "q.jsonl"}]}]}
    merges = (
        f"merge_method: {method}\nbase_model: b\nmodels: [{{model: a, parameters: {{weight: [0, 1]}}}}]\n"
        for method in ("ties", "dare_ties")
    )
    journal = '{"run": {"recipe": "x"}}\n{"tensor": "a", "digest": "b", "ties": 0, "not_finite": []}\n'
    files: dict[str, list[bytes | str]] = {
        "safetensors": [builders.safetensors(builders.weights(0))],
        "index": ['{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'],
        "pytorch": [builders.torch_archive(builders.state_dict(pickled), storages)],
        "pickle": [builders.state_dict(pickled)],
        "gguf": [builders.gguf()],
        "gguf_model": [builders.gguf()],
        "importance": [_written_importance()],
        "importance_dat": [struct.pack("<ii1siif", 1, 1, b"a", 1, 1, 1.0)],
        "adapter": [
            json.dumps(
                {
                    "peft_type": "LORA",
                    "r": 2,
                    "lora_alpha": 4,
                    "target_modules": ["q_proj"],
                    "alpha_pattern": {"a.*": 1},
                }
            )
        ],
        "config": [json.dumps(builders.CONFIG)],
        "tokenizer": [json.dumps(builders.tokenizer())],
        "sentencepiece": [b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"],
        "recipe": [recipe, *merges],
        "pipeline": [
            json.dumps({"merge": {"merge_method": "linear"}, "export": ["f16"], "evaluate": {"questions": ["q"]}})
        ],
        "search": [json.dumps(search | {"objective": [{"questions": "q.jsonl"}], "trials": 1})],
        "suite": [json.dumps(suite)],
        "mapping": ['{"tensors": [["model.layers.{n}.a.{w}", "h.{n}.b.{w}", {"rows": ["heads*head_dim"]}]]}'],
        "questions": ['{"prompt": "a", "target": "b"}\n'],
        "journal": [journal],
        "checksums": ['{"algorithm": "xxh3_128", "tensors": {"a": "b"}, "run": "r"}'],
        "digests": ['{"/a": [1, 2, 3, 4, "x"]}'],
        "manifest": ['{"files": []}'],
    }
    for content in files[name]:
        yield content.encode() if isinstance(content, str) else content


def _written_importance() -> bytes:
    import numpy as np

    sums, counts = {"blk.0.attn_q.weight": np.ones((1, 4), np.float32)}, {"blk.0.attn_q.weight": np.ones(1, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "imatrix.gguf"
        Importance(sums, counts, "text.txt", 1, 512).write(path)
        return path.read_bytes()
