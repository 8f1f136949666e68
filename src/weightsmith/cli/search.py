"""How a search is shown in a terminal."""

from __future__ import annotations

import typer

from weightsmith.search.search import SearchSummary


def show_search(found: SearchSummary, top: int) -> None:
    """The winner and what it is held against, and where the rest is."""
    from rich.table import Table

    from weightsmith.cli.plain_console import plain_console
    from weightsmith.search.objectives import value

    table = Table(title="search / held out")
    for heading in ("", *(f"{o.name}, {o.metric}" for o in found.objectives), "score", "the winner is"):
        table.add_column(heading, justify="left" if not heading else "right")
    verdicts = {gain.other: f"{gain.verdict} ({_chance(gain.p)})" for gain in found.final.gains}
    for one in found.final.candidates:
        cells = [
            f"{value(o, a):.2f} / {value(o, b):.2f}"
            for o, a, b in zip(found.objectives, one.seen, one.held_out, strict=True)
        ]
        table.add_row(one.label, *cells, f"{one.seen_score:.4f} / {one.score:.4f}", verdicts.get(one.label, ""))
    plain_console().print(table)
    if found.best.default:
        typer.echo("no candidate was better than the best default recipe")
    elif found.final.within_noise:
        typer.echo("the gain over the best default recipe is within noise: with as many questions, chance does as much")
    files = ", ".join(path.name for path in found.files)
    typer.echo(f"{found.out}: candidate {found.best.number} of {len(found.trials)} in {found.seconds:.0f} s; {files}")
    if top:
        typer.echo(f"merged: {', '.join(f'top-{k + 1}' for k in range(top))}")


def _chance(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
