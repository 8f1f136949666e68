"""One reader under atheris (libFuzzer, by coverage): `python -m tests.hostile.fuzz.fuzz_one READER [libFuzzer options]`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import atheris

# Not what numba compiles.
with atheris.instrument_imports(include=["weightsmith"], exclude=["weightsmith.blocks", "weightsmith.methods"]):
    from tests.hostile.fuzz.readers import READERS
    from weightsmith.errors import WeightsmithError


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    read, home = READERS[sys.argv.pop(1)], tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)

    def test(content: bytes) -> None:
        folder = Path(home) / "one"
        folder.mkdir()
        try:
            read(content, folder)
        except WeightsmithError:
            pass
        finally:
            shutil.rmtree(folder)

    atheris.Setup(sys.argv, test)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
