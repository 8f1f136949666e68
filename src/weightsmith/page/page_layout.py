"""The page itself, in Gradio: models, recipe, runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weightsmith.page.page_actions import PageActions
from weightsmith.page.page_views import results_key, results_view, run_view
from weightsmith.page.run_folders import RunFolder, find_run, run_folders

if TYPE_CHECKING:
    import gradio
    from gradio.themes import Base

TITLE = "Weightsmith"
_TYPES = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m")
_FIRST_METHOD = "ties"
_SECONDS = 1.0  # between two looks at a run
_FONTS = ("system-ui", "sans-serif")
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}
_QUIET: dict[str, Any] = _PRIVATE | {"show_progress": "hidden"}


@dataclass(frozen=True)
class _ModelsTab:
    base: gradio.Dropdown
    models: gradio.Dropdown
    stats: gradio.Checkbox
    inspect: gradio.Button
    look_again: gradio.Button
    inspection: gradio.HTML


@dataclass(frozen=True)
class _RecipeTab:
    method: gradio.Dropdown
    advice: gradio.HTML
    types: gradio.CheckboxGroup
    questions: gradio.Dropdown
    write: gradio.Button
    pipeline: gradio.Code
    verdict: gradio.HTML
    name: gradio.Textbox
    estimate: gradio.Button
    start: gradio.Button
    cost: gradio.HTML


@dataclass(frozen=True)
class _RunsTab:
    run: gradio.Dropdown
    cancel: gradio.Button
    resume: gradio.Button
    said: gradio.HTML
    status: gradio.HTML
    results: gradio.HTML
    shown: gradio.State  # by its key, what `results` shows


def build_page(actions: PageActions) -> gradio.Blocks:
    """All tabs and what each button does."""
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>Merge models, export, evaluate: choose models, look at the recipe, start. "
            "Everything stays on this machine.</p>"
        )
        with gr.Tabs() as tabs:
            with gr.Tab("1. Models", id="models"):
                models = _models_tab(actions)
            with gr.Tab("2. Recipe", id="recipe"):
                recipe = _recipe_tab(actions)
            with gr.Tab("3. Runs", id="runs"):
                runs = _runs_tab(actions)
        _connect_recipe(actions, models, recipe)
        _connect_runs(actions, recipe, runs, tabs)

        def found() -> tuple[Any, Any, Any]:
            choices = gr.update(choices=actions.model_choices())
            return choices, choices, gr.update(choices=actions.file_choices(".jsonl"))

        lists = [models.base, models.models, recipe.questions]
        models.inspect.click(actions.inspect, [models.base, models.models, models.stats], models.inspection, **_PRIVATE)
        models.look_again.click(found, None, lists, **_QUIET)
        page.load(found, None, lists, **_QUIET)
        page.load(
            lambda: gr.update(choices=_names(actions), value=next(iter(_names(actions)), None)),
            None,
            runs.run,
            **_QUIET,
        )
    return page


def page_theme() -> Base:
    """System fonts: nothing is fetched from elsewhere."""
    from gradio.themes import Base

    return Base(primary_hue="blue", font=_FONTS, font_mono=("ui-monospace", "monospace"))


def _models_tab(actions: PageActions) -> _ModelsTab:
    import gradio as gr

    base = gr.Dropdown(
        actions.model_choices(),
        value=None,
        label="Base model",
        info="The one that the others were trained from: from the folders given at the start, or a hub id.",
        allow_custom_value=True,
        elem_id="base",
    )
    models = gr.Dropdown(
        actions.model_choices(),
        value=[],
        multiselect=True,
        label="Models to merge",
        info="Fine-tunes of it, or adapters; hub ids are typed: owner/name@revision.",
        allow_custom_value=True,
        elem_id="models",
    )
    stats = gr.Checkbox(label="Read the weights too: how far did each move, and do they agree?", elem_id="stats")
    with gr.Row():
        inspect = gr.Button("Inspect", variant="primary", elem_id="inspect")
        look_again = gr.Button("Look for models again", elem_id="look_again")
    return _ModelsTab(base, models, stats, inspect, look_again, gr.HTML(elem_id="inspection"))


def _recipe_tab(actions: PageActions) -> _RecipeTab:
    import gradio as gr

    from weightsmith.methods.registry import METHODS

    methods = [(f"{name}: {method.title}", name) for name, method in METHODS.items()]
    method = gr.Dropdown(methods, value=_FIRST_METHOD, label="Merge method", elem_id="method")
    advice = gr.HTML(value=actions.describe(_FIRST_METHOD), elem_id="advice")
    types = gr.CheckboxGroup(list(_TYPES), value=["q4_k_m"], label="GGUF files", elem_id="types")
    questions = gr.Dropdown(
        actions.file_choices(".jsonl"),
        value=[],
        multiselect=True,
        label="Questions",
        info="Files of prompts and answers (.jsonl) that the base and the merged model are asked.",
        elem_id="questions",
    )
    write = gr.Button("Write the recipe", variant="primary", elem_id="write")
    pipeline = gr.Code(
        language="yaml", label="Pipeline: edit it as you like", lines=12, wrap_lines=True, elem_id="pipeline"
    )
    verdict = gr.HTML(elem_id="verdict")
    with gr.Row():
        name = gr.Textbox(label="Name of the run", value="first", max_lines=1, elem_id="name")
        estimate = gr.Button("Estimate time and memory", elem_id="estimate")
        start = gr.Button("Start", variant="primary", elem_id="start")
    cost = gr.HTML(elem_id="cost")
    return _RecipeTab(method, advice, types, questions, write, pipeline, verdict, name, estimate, start, cost)


def _runs_tab(actions: PageActions) -> _RunsTab:
    import gradio as gr

    run = gr.Dropdown(_names(actions), value=None, label="Run", elem_id="run")
    with gr.Row():
        cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id="cancel")
        resume = gr.Button("Resume", interactive=False, elem_id="resume")
    said = gr.HTML(elem_id="said")
    status = gr.HTML(value=run_view(None), elem_id="status")
    results = gr.HTML(elem_id="results", elem_classes="ws-page")
    return _RunsTab(run, cancel, resume, said, status, results, gr.State(""))


def _connect_recipe(actions: PageActions, models: _ModelsTab, recipe: _RecipeTab) -> None:
    import gradio as gr

    def drafted(base: str, chosen: list[str], method: str, types: list[str], questions: list[str]) -> tuple[Any, str]:
        text, said = actions.draft(base, chosen, method, types, questions)
        return (gr.skip() if text is None else text), said

    recipe.method.change(actions.describe, recipe.method, recipe.advice, **_QUIET)
    asked = [models.base, models.models, recipe.method, recipe.types, recipe.questions]
    recipe.write.click(drafted, asked, [recipe.pipeline, recipe.verdict], **_PRIVATE)
    recipe.pipeline.change(actions.check, recipe.pipeline, recipe.verdict, trigger_mode="always_last", **_QUIET)
    recipe.estimate.click(actions.estimate, recipe.pipeline, recipe.cost, **_PRIVATE)


def _connect_runs(actions: PageActions, recipe: _RecipeTab, runs: _RunsTab, tabs: gradio.Tabs) -> None:
    import gradio as gr

    def started(name: str, text: str) -> tuple[Any, str, Any]:
        run_name, said = actions.start(name, text)
        if run_name is None:
            return gr.skip(), said, gr.skip()
        return gr.update(choices=_names(actions), value=run_name), said, gr.update(selected="runs")

    def looked(name: str | None) -> tuple[Any, str, Any, Any]:
        run = _chosen(actions, name)
        state = run.state.state if run else "done"
        goes_on = state in ("queued", "running")
        may_cancel, may_resume = gr.update(interactive=goes_on), gr.update(interactive=not goes_on and state != "done")
        return gr.update(choices=_names(actions)), run_view(run), may_cancel, may_resume

    def new_results(name: str | None, shown: str) -> tuple[Any, Any]:
        run = _chosen(actions, name)
        key = results_key(run)
        return (gr.skip(), gr.skip()) if key == shown else (results_view(run), key)

    def cancelled(name: str | None) -> str:
        actions.cancel(name or "")
        return ""

    recipe.start.click(started, [recipe.name, recipe.pipeline], [runs.run, recipe.verdict, tabs], **_PRIVATE)
    runs.cancel.click(cancelled, runs.run, runs.said, **_QUIET)
    runs.resume.click(lambda name: actions.resume(name or ""), runs.run, runs.said, **_QUIET)
    clock = gr.Timer(_SECONDS)
    clock.tick(looked, runs.run, [runs.run, runs.status, runs.cancel, runs.resume], **_QUIET)
    clock.tick(new_results, [runs.run, runs.shown], [runs.results, runs.shown], **_QUIET)


def _names(actions: PageActions) -> list[str]:
    """Runs, the newest first."""
    return [run.name for run in sorted(run_folders(actions.queue.runs), key=lambda run: -run.state.since)]


def _chosen(actions: PageActions, name: str | None) -> RunFolder | None:
    return find_run(actions.queue.runs, str(name or ""))
