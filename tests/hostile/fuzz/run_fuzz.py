"""`make fuzz`: every reader for a share of the time, two at once; what is new to them is kept, what breaks them is shown."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.hostile.fuzz.kept import keep_inputs, kept_inputs
from tests.hostile.fuzz.readers import READERS, seeds

FOUND = Path("build/fuzz")
_OPTIONS = ("-timeout=20", "-rss_limit_mb=2500", "-max_len=16384", "-print_final_stats=1", "-verbosity=0")


def fuzz(reader: str, seconds: int) -> tuple[str, bool]:
    """(a line about it, whether nothing broke it)."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for content in (*seeds(reader), *kept_inputs(reader)):
            (corpus / hashlib.sha1(content).hexdigest()).write_bytes(content)
        run = [sys.executable, "-m", "tests.hostile.fuzz.fuzz_one", reader]
        prefix = f"-artifact_prefix={FOUND}/{reader}-"
        began = time.monotonic()
        done = subprocess.run(
            [*run, f"-max_total_time={seconds}", prefix, *_OPTIONS, str(corpus)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        line = f"{reader}: {int(runs[1]) if runs else 0:,} inputs in {time.monotonic() - began:.0f} s"
        if done.returncode:
            (FOUND / f"{reader}.log").write_text(done.stdout + done.stderr)
            return f"{line}; BROKEN, see {FOUND}/{reader}.log and the input beside it", False
        kept = keep_inputs(reader, [path.read_bytes() for path in corpus.iterdir()])
        return f"{line}; {kept} kept", True


def main(minutes: float) -> int:
    FOUND.mkdir(parents=True, exist_ok=True)
    at_once = os.cpu_count() or 1
    share = max(5, int(minutes * 60 * at_once / len(READERS)))
    with ThreadPoolExecutor(at_once) as pool:
        results = []
        for line, sound in pool.map(lambda reader: fuzz(reader, share), READERS):
            print(line, flush=True)
            results.append(sound)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10))
