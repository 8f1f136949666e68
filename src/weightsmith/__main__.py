"""The command `weightsmith`, and `python -m weightsmith`."""

from __future__ import annotations

import sys


def main() -> None:
    """Ctrl-C is one line from the first import on."""
    try:
        from weightsmith.commands.app import main as run

        run()
    except KeyboardInterrupt:
        print("weightsmith: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
