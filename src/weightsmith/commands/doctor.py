"""`weightsmith doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightsmith.commands.terminal.json_output import AsJson, echo_json

if TYPE_CHECKING:
    from weightsmith.diagnosis.doctor import Diagnosis


def doctor(
    folder: Annotated[Path, typer.Option("--folder", help="Measure the disk of this folder.")] = Path("."),
    json_: AsJson = False,
) -> None:
    """Look at this installation: what works here, and what would make the rest work.

    Libraries and extras, processor and accelerators, llama.cpp's build, the speed of the disk (a file of 64 MB, which
    is removed). Exit code 0: all that is installed works. 2: something is broken, and it says what to do.

    Example: weightsmith doctor
    """
    from weightsmith.diagnosis.doctor import doctor as look
    from weightsmith.errors import WeightsmithError

    diagnosis = look(folder)
    if json_:
        echo_json(diagnosis)
    else:
        _show(diagnosis)
    if diagnosis.problems:
        raise WeightsmithError("; ".join(diagnosis.problems))


def _show(found: Diagnosis) -> None:
    from rich.table import Table

    from weightsmith.commands.terminal.tables import plain_console
    from weightsmith.units import show_size

    llama_cpp = "not installed"
    if found.llama_cpp.version:
        llama_cpp = (
            f"{found.llama_cpp.version}, {'uses an accelerator' if found.llama_cpp.offload else 'processor only'}"
        )
        llama_cpp += f"; {found.llama_cpp.build}" if found.llama_cpp.build else ""
    rows = {
        "weightsmith": f"{found.version}, Python {found.python}, {found.system}",
        "processor": f"{found.cores} cores, {' '.join(found.instructions) or 'instructions not known'}; models are "
        f"evaluated in {found.precision}",
        "memory": f"{show_size(found.memory)} can be taken now",
        "accelerators": "; ".join(found.devices) or "none that torch can use",
        "llama.cpp": llama_cpp,
        "disk": f"{show_size(found.disk.free)} free, {show_size(found.disk.write_speed)}/s written through"
        if found.disk.write_speed
        else "could not be measured",
        "kernels": found.kernel_cache,
    }
    for name, value in rows.items():
        typer.echo(f"{name + ':':<14}{value}")
    typer.echo()
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for title in ("extra", "for", "state"):
        table.add_column(title)
    for extra in found.extras:
        state = "works" if extra.works else f"{extra.install}"
        table.add_row(extra.name or "(always)", extra.what_for, state)
    plain_console().print(table)
