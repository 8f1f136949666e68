"""What the page's buttons do: from the texts that a browser sends to HTML; refusals are shown, not raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from weightsmith.errors import WeightsmithError
from weightsmith.files.inputs.read_input import read_text
from weightsmith.models.find_model import is_adapter
from weightsmith.page.allowed_folders import AllowedFolders
from weightsmith.page.page_views import good_view, inspection_view, method_view, plan_view, problem_view
from weightsmith.page.run_folders import PIPELINE, RunFolder, find_run
from weightsmith.page.run_queue import RunQueue

_MOST_MODELS, _LONGEST = 50, 200_000  # models; characters or bytes of a pipeline


def _refusals_shown(action: Callable[..., str]) -> Callable[..., str]:
    @wraps(action)
    def shown(*arguments: Any) -> str:
        try:
            return action(*arguments)
        except WeightsmithError as error:
            return _refusal(error)

    return shown


def _refusal(error: WeightsmithError) -> str:
    return problem_view(str(error).removeprefix(f"{PIPELINE}:{error.line}: "), error.line)


class PageActions:
    """The buttons. `allowed`: what may be read; `queue`: where runs wait."""

    def __init__(self, allowed: AllowedFolders, queue: RunQueue) -> None:
        self.allowed, self.queue = allowed, queue

    def model_choices(self) -> list[tuple[str, str]]:
        """(what is shown, the path) of each model in the folders."""
        return [(self._labelled(path), str(path)) for path in self.allowed.models()]

    def file_choices(self, *endings: str) -> list[tuple[str, str]]:
        """(what is shown, the path) of each file with such an ending."""
        return [(self.allowed.short(path), str(path)) for path in self.allowed.files(*endings)]

    @_refusals_shown
    def inspect(self, base: str, models: Sequence[str], stats: bool) -> str:
        """Base and models, whether they fit."""
        from weightsmith.inspection.inspect import inspect

        return inspection_view(inspect(self._references(base, models), beside=self.allowed.home, stats=bool(stats)))

    @_refusals_shown
    def describe(self, method: str) -> str:
        """One method."""
        from weightsmith.methods.registry import find_method

        known = find_method(str(method))
        return method_view(known) if known else problem_view(f"unknown merge method {method!r}")

    def draft(
        self, base: str, models: Sequence[str], method: str, types: Sequence[str], questions: Sequence[str]
    ) -> tuple[str | None, str]:
        """A pipeline, or None, and what is to be said of it."""
        from weightsmith.methods.registry import find_method
        from weightsmith.recipe.draft_recipe import draft_pipeline, draft_recipe

        try:
            known = find_method(str(method))
            if known is None:
                return None, problem_view(f"unknown merge method {method!r}")
            first, *others = self._references(base, models)
            fine_tunes = others if base else [first, *others]
            recipe = draft_recipe(known, fine_tunes, first if base else None)
            text = draft_pipeline(recipe, list(types), list(questions), first if base else None, fine_tunes)
        except WeightsmithError as error:
            return None, _refusal(error)
        return text, self.check(text)

    @_refusals_shown
    def check(self, text: str) -> str:
        """Whether a pipeline can be run, with the line of what is wrong."""
        if not text.strip():
            return ""
        plan = self._checked(text).plan
        return good_view(f"Can be run: {plan.method.name} of {len(plan.models)} models, {len(plan.tensors)} tensors.")

    @_refusals_shown
    def estimate(self, text: str) -> str:
        """What it will take."""
        from weightsmith.engine.estimate import estimate
        from weightsmith.machine import available_cores

        plan = self._checked(text).plan
        here = not any(model.headers_only for model in plan.models.values())
        cost = estimate(plan, self.queue.runs / "merged", threads=available_cores()) if here else None
        return plan_view(plan, cost)

    def start(self, name: str, text: str) -> tuple[str | None, str]:
        """The run's name, or None, and what is to be said."""
        try:
            self._checked(text)
            run = RunFolder.create(self.queue.runs, name.strip(), text)
            self.queue.add(run)
        except WeightsmithError as error:
            return None, _refusal(error)
        return run.name, good_view(f"{run.name} waits for its turn.")

    def cancel(self, name: str) -> None:
        """As Ctrl-C."""
        if run := find_run(self.queue.runs, str(name)):
            self.queue.cancel(run)

    @_refusals_shown
    def resume(self, name: str) -> str:
        """Go on with what is finished; the pipeline is checked again."""
        run = find_run(self.queue.runs, str(name))
        if run is None:
            return problem_view("No run is chosen.")
        self._checked(read_text(run.pipeline, limit=_LONGEST))
        self.queue.add(run)
        return good_view(f"{run.name} waits for its turn.")

    def _checked(self, text: str) -> Any:
        from weightsmith.pipeline.run import check_pipeline

        if len(text) > _LONGEST:
            raise WeightsmithError(f"the pipeline has {len(text):,} characters; the page takes {_LONGEST:,}")
        return check_pipeline(self.allowed.check_pipeline(text, Path(PIPELINE)), headers_only=True)

    def _references(self, base: str, models: Sequence[str]) -> list[str]:
        """The base first; an adapter alone goes onto it."""
        chosen = [str(model).strip() for model in models or () if str(model).strip()]
        base = str(base or "").strip()
        if not chosen and not base:
            raise WeightsmithError("choose models: a base, and one or more that were trained from it")
        if len(chosen) > _MOST_MODELS:
            raise WeightsmithError(f"{len(chosen)} models; the page takes {_MOST_MODELS}")
        for reference in (base, *chosen):
            self.allowed.check_reference(reference)
        whole = [f"{base}+{model}" if base and is_adapter(model, self.allowed.home) else model for model in chosen]
        return [*([base] if base else []), *whole]

    def _labelled(self, path: Path) -> str:
        return f"{self.allowed.short(path)}{' (adapter)' if is_adapter(str(path), self.allowed.home) else ''}"
