"""An opened model: its tensors under canonical names, its configuration, and how it was read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo, read_tensor
from weightsmith.models.naming.left_out import count_left_out
from weightsmith.models.naming.scheme import Scheme

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Model(Mapping[str, "torch.Tensor"]):
    """An opened model: a read-only mapping from canonical names to tensors, each read when it is asked for, in its own
    dtype and shape. Beside it are `tensors` (name -> shape and dtype), `config` (config.json) and `left_out`.

    >>> model = ws.open_model("coder")
    >>> len(model) == len(model.tensors)
    True
    """

    reference: str
    checkpoint: Checkpoint
    config: dict[str, Any]
    home: Path  # the folder or GGUF file that holds config and tokenizer
    files: tuple[Path, ...]  # every path the weights come from, base first
    scheme: Scheme | None = None  # the foreign layout it is read from
    left_out: dict[str, str] = field(default_factory=dict)  # tensors of the files that are no weights -> why
    renamed: bool = False  # names were unwrapped, or got or lost the prefix of their class
    notes: tuple[str, ...] = ()  # more that was done, or could not be
    kept_because: str | None = None  # why a known foreign layout is left as it is
    lora_ranks: tuple[int, ...] = ()
    config_file: str = "config.json"  # the name that the layout gives its configuration
    quantization: str | None = None  # the format that its weights are decoded from
    lacks: frozenset[str] = frozenset()  # of the base's tensors, those that it need not have: a text model's no tower
    headers_only: bool = False  # a hub model of which nothing but headers was fetched

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of each tensor; nothing is read."""
        return self.checkpoint.tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        """The whole tensor. Raises KeyError for a name that is not there."""
        return read_tensor(self.checkpoint, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.checkpoint.tensors)

    def __len__(self) -> int:
        return len(self.checkpoint.tensors)

    def __repr__(self) -> str:
        return f"<Model {self.reference}: {len(self)} tensors>"

    @property
    def is_gguf(self) -> bool:
        return self.home.suffix.lower() == ".gguf" and self.home.is_file()

    @property
    def is_state_dict(self) -> bool:
        """Whether it is a file of weights alone, without a configuration."""
        return self.home.is_file() and not self.is_gguf

    @property
    def naming(self) -> str:
        """The layout's name, `transformers` where it is today's."""
        return self.scheme.name if self.scheme else "transformers"

    @property
    def conversion(self) -> str | None:
        """What is done to its names and rows on the fly, in a few words."""
        notes = []
        if self.quantization:
            notes.append(f"{self.quantization}, decoded to bfloat16")
        if self.scheme:
            notes.append(f"{self.scheme.name} naming, read as {self.config['architectures'][0]}'s")
        if self.renamed:
            notes.append("names with a wrapper's prefix or without their class's, read as plain names")
        if self.kept_because:
            notes.append(f"names kept as they are: {self.kept_because}")
        notes += self.notes
        if self.left_out:
            notes.append(count_left_out(self.left_out.values()))
        return "; ".join(notes) or None
