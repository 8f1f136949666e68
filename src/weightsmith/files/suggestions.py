"""Suggestions for a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'density'?`, or the list of known names where none is near."""
    options = sorted(known)
    return did_you_mean(name, options) or f"; known: {', '.join(options)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'density'?`, or nothing where none is near."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
