"""Kernels where nothing can be written: a container with a read-only file system."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
import numpy as np
from weightsmith.blocks.convert import from_float16
out = np.empty(2, np.float32)
from_float16(np.array([1.5, -2], np.float16).view(np.uint16), out)
assert out.tolist() == [1.5, -2], out
"""


def test_compiled_by_each_process_where_nothing_can_be_kept() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
