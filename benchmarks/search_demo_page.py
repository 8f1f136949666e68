"""docs/search-benchmarks.md and its picture, from what benchmarks/search_demo_models.py kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.evaluation.results.paired_tests import bootstrap_p
from weightsmith.files.markdown import markdown_table
from weightsmith.recipe_search.report.ablation_report import Ablation, draw_heat_map
from weightsmith.report.svg_figure import svg_figure

DOCS = Path("docs")
COLORS = {"tpe": "C0", "cmaes": "C1", "random": "C7"}


def write_page(records: dict[str, Any], skills: list[str], seen: int, held_out: int) -> None:
    searches = {key: search for key, search in records.items() if key != "test"}
    text = [
        "# Search, measured",
        "",
        *sorted({search["where"] for search in searches.values()}),
        "",
        "`make bench-search-demo` writes this page: the demo's base and its three adapters, 60 candidates per "
        "search. The spaces: TIES or",
        "task arithmetic, the weight of each adapter in attention and elsewhere (0.4 to 1.6), its density (0.2 to "
        "1): 10 spaces.",
        f"Objectives: nats per token of right answers, {seen} questions of each skill, and, with half the weight, "
        "of the demo's general text;",
        f"{held_out} questions of each skill and 6 of 8 windows of the text are held out. Questions use wordings "
        "that the adapters were not",
        "trained on: default recipes already answer all of the demo's own questions, so no search could find more.",
        "",
        "## On held-out questions",
        "",
        markdown_table(list(_rows(searches))),
        "",
        "Scores are the search's own, on the held-out part: minus nats per token, summed. The difference is "
        "tested by a paired bootstrap.",
        "Minutes are those of the whole command: candidates, and six default recipes, base, adapters and winner on "
        "the held-out part.",
        "",
        *_values(searches, skills),
    ]
    if len({key.partition(",")[0] for key in searches}) > 1:
        text += [
            "## Samplers at equal cost",
            "",
            "![Gain over the best default recipe against cost](search-samplers.svg)",
            "",
            "On the part that the search used, in nats. Thin: each seed; thick: their mean. A candidate's cost is the share of "
            "the questions that it was asked: one that is stopped",
            "early costs a quarter or half of one that is not.",
            "",
            *_at_equal_cost(searches),
        ]
        picture = svg_figure(lambda figure: _draw(figure, searches), (7.0, 4.0))
        (DOCS / "search-samplers.svg").write_text(picture, encoding="utf-8")
    if (DOCS / "search-ablation.svg").exists():
        text += [
            "## Which layers carry which skill",
            "",
            "![Change where an adapter is left out of a block of layers](search-ablation.svg)",
            "",
            "The winner of TPE's first seed, as `weightsmith ablate` sees it: each adapter left out of each block "
            "of layers, 100 questions of",
            "each skill that no search used. Red is worse; brackets: within noise.",
            "",
        ]
    if "test" in records:
        text += _tested(records["test"], skills)
    (DOCS / "search-benchmarks.md").write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")


def write_ablation_picture(ablation: Ablation) -> None:
    """docs/search-ablation.svg: a heat map per objective, one below the other."""

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(ablation.objectives), 1, sharex=True)
        for number, axis in enumerate(axes):
            draw_heat_map(axis, ablation, number)

    picture = svg_figure(draw, (8.6, 1.5 * len(ablation.objectives) + 0.8))
    (DOCS / "search-ablation.svg").write_text(picture, encoding="utf-8")


def _rows(searches: dict[str, Any]) -> Any:
    yield ["sampler, seed", "stopped early", "minutes", "best default", "winner", "difference (95 %)", "p"]
    for key, search in searches.items():
        gain = next(gain for gain in search["gains"] if gain["over"].startswith("best default"))
        scores = {candidate["label"]: candidate["held_out_score"] for candidate in search["candidates"]}
        threads = f" ({search['threads']} thread)" if search["threads"] else ""
        yield [
            key,
            f"{search['scores'].count(None)} of {len(search['scores'])}",
            f"{search['seconds'] / 60:.1f}{threads}",
            f"{scores[gain['over']]:.4f}",
            f"{next(iter(scores.values())):.4f}",
            f"{gain['difference']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})",
            f"{gain['p']:.4f}",
        ]


def _values(searches: dict[str, Any], skills: list[str]) -> list[str]:
    """Held-out perplexities of the winners and the recipes that they are compared with."""
    rows = [["perplexity, held out", *skills, "general"]]
    for key, search in searches.items():
        for candidate in search["candidates"]:
            if candidate["label"].startswith(("winner", "best default")):
                rows.append(
                    [f"{key}: {candidate['label']}", *(f"{value:.3f}" for value in candidate["held_out"].values())]
                )
    return [markdown_table(rows), ""]


def _tested(records: dict[str, list[str]], skills: list[str]) -> list[str]:
    answers = {name: [np.array([*map(int, rights)]) for rights in some] for name, some in records.items()}
    defaults = [name for name in records if "," in name and not name.startswith("winner")]
    best = max(defaults, key=lambda name: np.concatenate(answers[name]).mean())
    rows = [["exact answers", *skills, "all", f"against {best}", "p"]]
    for name, some in answers.items():
        gaps = np.concatenate(some) - np.concatenate(answers[best])
        drawn = gaps[np.random.default_rng(0).integers(0, len(gaps), (10_000, len(gaps)))].mean(1)
        against = [f"{gaps.mean():+.1%}", f"{bootstrap_p(drawn, len(gaps)):.4f}"] if name != best else ["", ""]
        rows.append(
            [name, *(f"{candidate.mean():.1%}" for candidate in some), f"{np.concatenate(some).mean():.1%}", *against]
        )
    return [
        "## Exact answers to questions that no search used",
        "",
        f"{len(next(iter(records.values()))[0])} of each skill; paired bootstrap against the default recipe that is "
        "best here.",
        "",
        markdown_table(rows),
        "",
    ]


def _draw(figure: Any, searches: dict[str, Any]) -> None:
    axis, highest = figure.subplots(), 0.0
    for sampler, color in COLORS.items():
        own_searches = [search for key, search in searches.items() if key.startswith(sampler)]
        curves = [
            (cost, best - best[len(search["defaults"]) - 1])
            for search in own_searches
            for cost, best in [_best_so_far(search)]
        ]
        if not curves:
            continue
        costs = np.linspace(1, min(cost[-1] for cost, _ in curves), 400)
        lines = [best[np.searchsorted(cost, costs, "right") - 1] for cost, best in curves]
        for line in lines:
            highest = max(highest, line[-1])
            axis.plot(costs, line, color=color, lw=0.8, alpha=0.5)
        axis.plot(costs, np.mean(lines, axis=0), color=color, lw=2.2, label=sampler)
    axis.set(
        xlabel="cost, in candidates that are asked everything",
        ylabel="best score so far, over the best default recipe",
        ylim=(-0.005, 1.05 * highest),
        xlim=(4, None),
    )
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


def _at_equal_cost(searches: dict[str, Any]) -> list[str]:
    """Best score so far where the cheapest search of all had ended, and where each did."""
    curves = {tuple(key.split(", ")): _best_so_far(search) for key, search in searches.items()}
    least = min(cost[-1] for cost, _ in curves.values())
    seeds = sorted({seed for _, seed in curves})
    rows = [["sampler", *(f"seed {seed}, {part}" for part in (f"cost {least:.0f}", "the end") for seed in seeds)]]
    for sampler in COLORS:
        ends = [curves.get((sampler, seed)) for seed in seeds]
        early = [f"{end[1][np.searchsorted(end[0], least, 'right') - 1]:.4f}" if end else "" for end in ends]
        late = [f"{end[1][-1]:.4f} (cost {end[0][-1]:.0f})" if end else "" for end in ends]
        rows.append([sampler, *early, *late])
    return [markdown_table(rows), ""]


def _best_so_far(search: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Cost so far and best score, after each candidate."""
    scores: Sequence[float] = [-np.inf if score is None else score for score in search["scores"]]
    return np.cumsum(search["asked"]), np.maximum.accumulate(scores)
