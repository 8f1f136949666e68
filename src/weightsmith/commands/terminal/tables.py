"""Tables on standard output: as wide as the terminal; of a fixed width where there is none."""

import sys

from rich.console import Console


def plain_console() -> Console:
    """What is in brackets is a name, never markup of rich's."""
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)
