"""Data of tasks from a folder instead of the hub: JSONL, JSON or Parquet files, found by the name of the dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weightsmith.errors import EvaluationError

_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_SPLITS = ("train", "validation", "test", "dev", "default", "auxiliary_train")
_PLAIN_CONFIGS = (None, "", "main", "default", "all")


@contextmanager
def local_data(folder: Path) -> Iterator[LocalFiles]:
    """While it lasts, `datasets.load_dataset` takes from `folder` what tasks ask the hub for. Raises EvaluationError
    where there is no file for a dataset, naming the paths it would be found under.

    A dataset `owner/NAME` with configuration CONFIG is NAME/CONFIG/SPLIT.jsonl, NAME/CONFIG.jsonl (every split but
    train), and the same without CONFIG where it is none, `main`, `default` or `all`; capitals, `-`, `_` and a folder
    `data` make no difference, and more may follow the split (`test-00000-of-00001.parquet`)."""
    import datasets

    if not folder.is_dir():
        raise EvaluationError(f"--data {folder}: no such folder")
    files = LocalFiles(folder)
    original = datasets.load_dataset

    def load(path: str, name: str | None = None, **options: Any) -> Any:
        data_files = options.get("data_files")
        if path in _FORMATS.values() and data_files:  # a task that brings its own files
            return original(path, name, **options)
        return files.load(path, name, original)

    datasets.load_dataset = load
    try:
        yield files
    finally:
        datasets.load_dataset = original


class LocalFiles:
    """The data files of a folder; `fields`: those of the dataset that was loaded last."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.fields = folder, list[str]()
        self._keys = {
            path: _key(*path.relative_to(folder).with_suffix("").parts)
            for path in sorted(_files(folder))
            if path.suffix in _FORMATS
        }

    def load(self, dataset: str, config: str | None, original: Any) -> Any:
        from datasets.exceptions import DatasetGenerationError

        splits = self._splits(dataset, config)
        loaded: dict[str, Any] = {}
        for split, paths in splits.items():
            file_format = _FORMATS[paths[0].suffix]
            try:
                loaded[split] = original(file_format, data_files={"train": [str(p) for p in paths]}, split="train")
                self.fields = sorted(loaded[split].column_names)
            except (DatasetGenerationError, OSError, ValueError) as error:
                reason = error.__cause__ or error
                raise EvaluationError(f"{paths[0]}: cannot be read: {str(reason).splitlines()[0]}") from error
        return LocalSplits(loaded, dataset, self._folder)

    def _splits(self, dataset: str, config: str | None) -> dict[str, list[Path]]:
        name = dataset.rpartition("/")[2]
        required_keys = [_key(name, config)] if config else []
        if config in _PLAIN_CONFIGS:
            required_keys.append(_key(name))
        splits: dict[str, list[Path]] = {}
        for required in required_keys:
            for path, key in self._keys.items():
                if key == required:
                    for split in _SPLITS:
                        if "train" not in split:
                            splits.setdefault(split, [path])
                for split in _SPLITS:
                    if re.fullmatch(rf"{re.escape(required)}_{split}(_.*)?", key):
                        splits.setdefault(split, [])
                        splits[split].append(path)
            if splits:
                return splits
        like = f"{name}/{config}" if config else name
        raise EvaluationError(
            f"--data {self._folder}: no file for the dataset {dataset}{f' ({config})' if config else ''}; it is looked "
            f"for as {like}.jsonl, {like}/test.jsonl (or .parquet, .json)"
        )


def _files(folder: Path) -> Iterator[Path]:
    """All files below, those of linked folders too, each folder once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in names)


class LocalSplits(dict):
    """Splits, as a DatasetDict has them; one that is not there is empty, since lm-eval takes hold of examples even
    where it shows none. `missing`: what to add for those that were asked for."""

    def __init__(self, splits: dict[str, Any], dataset: str, folder: Path) -> None:
        super().__init__(splits)
        self._dataset, self._folder = dataset, folder
        self.missing: dict[str, str] = {}

    def __missing__(self, split: str) -> Any:
        import datasets

        self.missing[split] = (
            f"--data {self._folder}: the dataset {self._dataset} has no split {split!r} there (found: "
            f"{', '.join(sorted(self))}); add {self._dataset.rpartition('/')[2]}/{split}.jsonl"
        )
        return datasets.Dataset.from_dict({})


def _key(*parts: str | None) -> str:
    """`hails/ai2_arc`, `ARC-Easy` -> ai2_arc_arc_easy"""
    words = [re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in parts if part]
    return "_".join(word for word in words if word != "data")
