"""The command `weightsmith`, and `python -m weightsmith`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Ctrl-C is one line from the first import on."""
    # Threads of OpenMP that wait for each other are not to spin: beside other programs that takes several times as
    # long. It is read when torch or llama.cpp is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from weightsmith.commands.app import main as run

        run()
    except KeyboardInterrupt:
        print("weightsmith: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
