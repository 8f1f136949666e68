"""Conversion scripts of transformers 4.36.2, loaded from its wheel (`make test` downloads it) without installing it."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

ORACLES = Path(__file__).parent.parent / ".venv" / "oracles"


def converter_path(family: str, script: str, folder: Path) -> Path:
    """`transformers/models/FAMILY/SCRIPT.py` of that release, copied into `folder`."""
    wheel = next(ORACLES.glob("transformers-4.36.2-*.whl"))
    path = folder / f"{script}.py"
    with zipfile.ZipFile(wheel) as archive:
        path.write_bytes(archive.read(f"transformers/models/{family}/{script}.py"))
    return path


def converter(family: str, script: str, folder: Path) -> ModuleType:
    """That script as a module, beside the transformers that is installed."""
    result = importlib.util.spec_from_file_location(script, converter_path(family, script, folder))
    assert result and result.loader
    module = importlib.util.module_from_spec(result)
    result.loader.exec_module(module)
    return module
