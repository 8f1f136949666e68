"""`weightsmith.export(...)` and `weightsmith.evaluate(...)` share their names with packages: make those callable."""

import sys
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **keywords)


def make_callable(name: str) -> None:
    """Calling the module `name` calls its function of the same name."""
    sys.modules[name].__class__ = _CallableRoom
