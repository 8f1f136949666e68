"""Tables on standard output: as wide as the terminal; of a fixed width where there is none."""

import sys

from rich.console import Console


def plain_console() -> Console:
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
