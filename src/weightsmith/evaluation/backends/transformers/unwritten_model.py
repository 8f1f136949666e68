"""A merge that is evaluated without being written."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightsmith.models.model import Model
from weightsmith.planning.plan import Plan
from weightsmith.tokenizer.merged_tokenizer import write_merged_tokenizer


class UnwrittenModel:
    """A plan as a model: its configuration and tokenizer lie in a scratch folder while it is in use (`with`)."""

    def __init__(self, plan: Plan, reference: str) -> None:
        self.plan, self.reference = plan, reference

    def __enter__(self) -> Model:
        self._scratch = tempfile.TemporaryDirectory(prefix="weightsmith-")
        folder = Path(self._scratch.name)
        write_merged_tokenizer(self.plan.home, self.plan.vocabulary, self.plan.chat_template, folder)
        return replace(self.plan.home, reference=self.reference, home=folder, config=self.plan.config)

    def __exit__(self, *_: Any) -> None:
        self._scratch.cleanup()
