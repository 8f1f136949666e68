"""The templates of all reports, filled. A page is one file that loads nothing from elsewhere."""

from __future__ import annotations

from typing import Any

from weightsmith.errors import ReportError
from weightsmith.files.markdown import fenced, markdown_table, markdown_text
from weightsmith.machine import describe_machine
from weightsmith.report.movement_plot import movement_plot, similarity_plot
from weightsmith.report.score_plot import average_plot, score_plot
from weightsmith.report.size_plot import quality_plot, size_plot


def render_template(template: str, values: dict[str, Any], *packages: str) -> str:
    """`template` filled with `values`. It is one of `weightsmith.report`, or of `packages` with templates of their own,
    and extends `page.html.j2`; what ends in `.html.j2` is escaped. Raises ReportError where jinja2 or matplotlib is not
    installed.

    >>> page = render_template("page.html.j2", {"title": "a < b"})
    >>> "<h1>a &lt; b</h1>" in page
    True
    """
    try:
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ReportError("a report needs jinja2: `pip install 'weightsmith[report]'`") from error
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates") for package in ("weightsmith.report", *packages)]),
        autoescape=lambda name: bool(name and name.endswith(".html.j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "text": markdown_text,
        "markdown_table": markdown_table,
        "fenced": fenced,
        "megabytes": megabytes,
    }
    environment.globals |= {
        "machine": describe_machine(),
        "score_plot": score_plot,
        "average_plot": average_plot,
        "movement_plot": movement_plot,
        "similarity_plot": similarity_plot,
        "size_plot": size_plot,
        "quality_plot": quality_plot,
        "warnings": (),
        "summary": "",
    }
    return environment.get_template(template).render(values)


def megabytes(count: int | None) -> str:
    """Empty for what was not measured."""
    return "" if count is None else f"{count / 1e6:.1f} MB"
