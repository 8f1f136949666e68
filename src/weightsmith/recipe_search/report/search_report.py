"""`report.html` of a search: what was found, how it does on what was held out, and where it came from."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weightsmith.evaluation.results.score_tables import show_p
from weightsmith.evaluation.task import mean
from weightsmith.recipe_search.objectives import Objective, value
from weightsmith.recipe_search.report.ablation_report import TEMPLATES
from weightsmith.recipe_search.report.final_scores import FinalScores
from weightsmith.recipe_search.space import Space
from weightsmith.recipe_search.trials.study import Study
from weightsmith.recipe_search.trials.trial import Trial
from weightsmith.report.render_template import megabytes, render_template
from weightsmith.report.svg_figure import svg_figure

_SHOWN = {"complete": "C0", "pruned": "C7"}


@dataclass(frozen=True)
class SearchFacts:
    """`name`: of the search file; `recipe`: of the winner, without paths; `memory`: bytes that were resident at
    most."""

    name: str
    recipe: str
    memory: int


def search_report(
    facts: SearchFacts,
    study: Study,
    spaces: Sequence[Space],
    objectives: Sequence[Objective],
    best: Trial,
    final: FinalScores,
) -> str:
    """A page that loads nothing from elsewhere. Raises ReportError where jinja2 or matplotlib is not installed."""
    trials = study.trials
    scored = [trial for trial in trials if trial.state == "complete" and trial.score is not None]
    plots = [("Best score so far", history_plot(trials))]
    if importance := importances(study):
        plots.append(("Which parameters matter (fANOVA)", _importance_plot(importance)))
    plots.append(("Score against each parameter", _slice_plot(trials, spaces)))
    if len(scored) > 1:
        plots.append(("Parameters of the candidates; better ones are darker", _parallel_plot(scored, spaces)))
    if len(objectives) > 1:
        plots.append((f"{objectives[0].name} against {objectives[1].name}", _pareto_plot(scored, objectives)))
    values = {
        "title": f"Search: {facts.name}",
        "warnings": _warnings(best, final),
        "summary": _summary(trials, best),
        "recipe": facts.recipe,
        "plots": plots,
        "scores": _score_rows(objectives, final),
        "gains": _gain_rows(final),
        "evaluation": final.held_out(objectives).tables(),
        "front": _front_rows(scored, spaces, objectives) if len(objectives) > 1 else [],
        "times": _time_rows(trials, facts.memory),
    }
    return render_template("search_report.html.j2", values, TEMPLATES)


def _warnings(best: Trial, final: FinalScores) -> list[str]:
    if best.default:
        return ["no candidate was better than the best default recipe on the questions that the search used"]
    if final.within_noise:
        return [
            "the gain over the best default recipe is within noise: with this many questions, chance alone can produce "
            "it. Use more questions, or the default recipe"
        ]
    return []


def _summary(trials: Sequence[Trial], best: Trial) -> str:
    counts = Counter(trial.state for trial in trials)
    default = f" (one of the default recipes: {best.default})" if best.default else ""
    return (
        f"Of {len(trials)} candidates, {counts['complete']} were scored in full, {counts['pruned']} were stopped early "
        f"because they were clearly behind, {counts['failed']} failed. The best is candidate {best.number}{default}."
    )


def _score_rows(objectives: Sequence[Objective], final: FinalScores) -> list[list[str]]:
    rows = [["model", "score", *(f"{objective.name}, {objective.metric}" for objective in objectives)]]
    for candidate in final.candidates:
        *cells, score = candidate.shown(objectives)
        rows.append([candidate.label, score, *cells])
    return rows


def _gain_rows(final: FinalScores) -> list[list[str]]:
    rows = [["the best candidate against", "difference of scores", "95 % interval", "p", "p (Holm)", "verdict"]]
    for gain in final.gains:
        interval = f"{gain.low:+.4f} to {gain.high:+.4f}"
        rows.append(
            [gain.other, f"{gain.difference:+.4f}", interval, show_p(gain.p), show_p(gain.p_holm), gain.verdict]
        )
    return rows


def _front_rows(trials: Sequence[Trial], spaces: Sequence[Space], objectives: Sequence[Objective]) -> list[list[str]]:
    rows = [["candidate", *(space.name for space in spaces)]]
    for trial in pareto_front(trials, objectives):
        chosen = [trial.params.get(space.name, "") for space in spaces]
        rows.append([str(trial.number), *(f"{one:.3f}" if isinstance(one, float) else str(one) for one in chosen)])
    return rows


def _time_rows(trials: Sequence[Trial], memory: int) -> list[list[str]]:
    merging, asking = sum(trial.merge_seconds for trial in trials), sum(trial.ask_seconds for trial in trials)
    return [
        ["", "of all candidates"],
        ["merging", f"{merging:.1f} s"],
        ["asking", f"{asking:.1f} s"],
        ["memory at most", megabytes(memory)],
    ]


def pareto_front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Complete candidates than which no other is better in one objective and as good in all others."""
    heights = [
        [(1 if o.higher_is_better else -1) * mean(a) for o, a in zip(objectives, trial.answers, strict=True)]
        for trial in trials
    ]
    return [
        trial
        for trial, ours in zip(trials, heights, strict=True)
        if not any(others != ours and all(a >= b for a, b in zip(others, ours, strict=True)) for others in heights)
    ]


def importances(study: Study) -> dict[str, float]:
    """Share of the scores' variance that each parameter explains (fANOVA,
    https://proceedings.mlr.press/v32/hutter14.html); empty where there are too few candidates for it."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            is_front = len(study.optuna.directions) > 1
            return optuna.importance.get_param_importances(
                study.optuna,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                target=(lambda trial: trial.user_attrs["score"]) if is_front else None,
            )
        except (ValueError, RuntimeError, ImportError):
            return {}


def history_plot(trials: Sequence[Trial]) -> str:
    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for state, color in _SHOWN.items():
            shown_trials = [t for t in trials if t.state == state and t.score is not None]
            axis.scatter(
                [t.number for t in shown_trials], [t.score for t in shown_trials], s=14, color=color, label=state
            )
        defaults = [t for t in trials if t.default and t.score is not None]
        axis.scatter(
            [t.number for t in defaults],
            [t.score for t in defaults],
            s=50,
            facecolors="none",
            edgecolors="C3",
            label="default recipes",
        )
        so_far, steps = -float("inf"), []
        for trial in trials:
            if trial.state == "complete" and trial.score is not None:
                so_far = max(so_far, trial.score)
            steps.append(so_far)
        known = [(t.number, s) for t, s in zip(trials, steps, strict=True) if s > -float("inf")]
        axis.step([n for n, _ in known], [s for _, s in known], where="post", color="C1", label="best so far")
        axis.set_xlabel("candidate")
        axis.set_ylabel("score")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)

    return svg_figure(draw, (9.6, 3.6))


def _importance_plot(importance: dict[str, float]) -> str:
    def draw(figure: Any) -> None:
        axis = figure.subplots()
        axis.barh(list(importance)[::-1], list(importance.values())[::-1], color="C0")
        axis.set_xlabel("share of the variance")
        axis.spines[["top", "right"]].set_visible(False)

    return svg_figure(draw, (9.6, 1.0 + 0.3 * len(importance)))


def _slice_plot(trials: Sequence[Trial], spaces: Sequence[Space]) -> str:
    columns = min(4, len(spaces))
    lines = -(-len(spaces) // columns)

    def draw(figure: Any) -> None:
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for number, axis in enumerate(axes.flat):
            if number >= len(spaces):
                axis.set_visible(False)
                continue
            space = spaces[number]
            for state, color in _SHOWN.items():
                shown_trials = [
                    t for t in trials if t.state == state and t.score is not None and space.name in t.params
                ]
                axis.scatter(
                    [t.params[space.name] for t in shown_trials], [t.score for t in shown_trials], s=10, color=color
                )
            axis.set_xlabel(space.name, fontsize=8)
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)

    return svg_figure(draw, (9.6, 2.2 * lines))


def _parallel_plot(trials: Sequence[Trial], spaces: Sequence[Space]) -> str:
    def height(space: Space, trial: Trial) -> float:
        importance = trial.params.get(space.name)
        if importance is None:
            return float("nan")
        if space.space_type == "choice":
            return space.labels.index(importance) / max(1, len(space.options) - 1)
        return (importance - space.low) / (space.high - space.low)

    def draw(figure: Any) -> None:
        from matplotlib import colormaps

        axis = figure.subplots()
        ordered = sorted(trials, key=lambda t: t.score or 0.0)
        for rank, trial in enumerate(ordered):
            share = rank / max(1, len(ordered) - 1)
            axis.plot(
                range(len(spaces)),
                [height(s, trial) for s in spaces],
                color=colormaps["Blues"](0.15 + 0.85 * share),
                lw=1,
                marker=".",
            )
        axis.set_xticks(range(len(spaces)), [space.name for space in spaces], rotation=30, ha="right", fontsize=8)
        axis.set_yticks([0, 1], ["low", "high"])
        axis.spines[["top", "right"]].set_visible(False)

    return svg_figure(draw, (9.6, 3.6))


def _pareto_plot(trials: Sequence[Trial], objectives: Sequence[Objective]) -> str:
    candidate, two = objectives[:2]

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        front = {trial.number for trial in pareto_front(trials, objectives)}
        for trial in trials:
            color = "C3" if trial.number in front else "C7"
            axis.scatter(value(candidate, trial.answers[0]), value(two, trial.answers[1]), s=18, color=color)
        axis.set_xlabel(f"{candidate.name} ({candidate.metric})")
        axis.set_ylabel(f"{two.name} ({two.metric})")
        axis.spines[["top", "right"]].set_visible(False)

    return svg_figure(draw, (9.6, 3.6))
