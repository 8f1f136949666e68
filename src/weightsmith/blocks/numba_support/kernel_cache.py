# pyright: reportIncompatibleMethodOverride=false
"""Where the machine code of kernels is kept: in the user's cache, under a digest of all their sources.

numba's own place is beside each source file, and goes with an environment. It looks at one file alone, too: after an
update that changed `convert.py`, a kernel of another file would go on with the `load` of before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from numba.core import caching
from numba.core import config as numba_config

from weightsmith.files.digests import digest
from weightsmith.files.user_cache import user_cache

_PACKAGE = Path(__file__).parents[2]
_NUMBAS = ("UserProvidedCacheLocator", "InTreeCacheLocator", "UserWideCacheLocator")  # NUMBA_CACHE_DIR comes first


class KernelCacheLocator(caching._CacheLocator):
    """What numba asks for one function."""

    def __init__(self, folder: Path, function: Callable[..., Any], file: Path) -> None:
        self._folder, self._file, self._line = folder, file, function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> KernelCacheLocator | None:
        if not Path(py_file).is_file():  # a notebook's cell
            return None
        try:
            locator = cls(user_cache() / "kernels" / _kernels_digest()[:16], py_func, Path(py_file))
            locator.ensure_cache_path()
        except (OSError, RuntimeError):  # no home, or nothing can be written there
            return None
        return locator

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return digest([_kernels_digest(), self._file.read_text(encoding="utf-8")])

    def get_disambiguator(self) -> str:
        inside = self._file.relative_to(_PACKAGE) if self._file.is_relative_to(_PACKAGE) else self._file.absolute()
        return f"{digest(inside.as_posix())[:8]}-{self._line}"


@cache
def _kernels_digest() -> str:
    """Of every file that kernels are in, and of those that they take constants from."""
    files = sorted([*_PACKAGE.glob("blocks/**/*.py"), *_PACKAGE.glob("methods/**/*.py")])
    return digest([(file.relative_to(_PACKAGE).as_posix(), file.read_text(encoding="utf-8")) for file in files])


@contextmanager
def kept_in_user_cache() -> Iterator[None]:
    """Functions that numba is given meanwhile are kept there, if anything can be written there."""
    config: Any = numba_config
    before = getattr(config, "CACHE_LOCATOR_CLASSES", "")  # older numbas have no such setting, and look at times
    config.CACHE_LOCATOR_CLASSES = before or ",".join((_NUMBAS[0], f"{__name__}.KernelCacheLocator", *_NUMBAS[1:]))
    try:
        yield
    finally:
        config.CACHE_LOCATOR_CLASSES = before
