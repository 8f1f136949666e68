"""An opened model: its checkpoint under canonical names, its configuration, and how it was read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.models.naming.left_out import count_left_out
from weightsmith.models.naming.scheme import Scheme


@dataclass(frozen=True)
class Model:
    """An opened model: `checkpoint` in canonical names, its `config.json`, and where its tokenizer lies."""

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
    headers_only: bool = False  # a hub model of which nothing but headers was fetched

    @property
    def is_gguf(self) -> bool:
        return self.home.is_file()

    @property
    def naming(self) -> str:
        """The layout's name, `transformers` where it is today's."""
        return self.scheme.name if self.scheme else "transformers"

    @property
    def conversion(self) -> str | None:
        """What is done to its names and rows on the fly, in a few words."""
        notes = []
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
