"""Markdown out of any text: a table that reads in a terminal as well, a line, a block of code."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # what begins a tag; the "<" of "<0.001" does not
_MARKUP = re.compile(r"[\\`\[\]|]")


def markdown_table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns; the first row is the heading, the first `left` columns are text. Cells are shown as they are:
    what Markdown or HTML would take for markup is escaped."""
    rows = [[markdown_text(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [lines[0], rule, *lines[1:]])


def markdown_text(text: str) -> str:
    """`text` on one line, with what begins a tag, a link, an image, code or a cell escaped
    (https://spec.commonmark.org/0.31.2/#backslash-escapes)."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return _MARKUP.sub(r"\\\g<0>", _TAG.sub("&lt;", plain.replace("&", "&amp;")))


def fenced(code: str, language: str) -> str:
    """A code block with a fence that no line of `code` closes (https://spec.commonmark.org/0.31.2/#fenced-code-blocks).

    >>> print(fenced("a: 1", "yaml"))
    ```yaml
    a: 1
    ```
    """
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"
