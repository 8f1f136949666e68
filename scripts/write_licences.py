"""Write docs/reference/licences.md: every library that an installation brings, with its version here and its licence.

.venv/bin/python scripts/write_licences.py
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from weightsmith.diagnosis.check_extras import check_extras

PAGE = Path(__file__).parents[1] / "docs/reference/licences.md"
_LONGEST = 60  # characters of a licence; some packages put the whole text there
HEAD = """# Libraries and their licences

What `pip install weightsmith` and its extras bring, as the packages themselves say it, in the versions of `constraints.txt`.
Written by `scripts/write_licences.py`. Weightsmith itself has the license Apache-2.0.

| library | version | licence | needed by |
| --- | --- | --- | --- |
"""


def main() -> None:
    needed: dict[str, set[str]] = {}
    for extra in (one.name for one in check_extras()):
        for name in _closure("weightsmith", frozenset({extra} - {""})):
            needed.setdefault(name, set()).add(extra or "every installation")
    needed.pop("weightsmith", None)
    rows = []
    for name in sorted(needed):
        package = metadata.distribution(name)
        by = "every installation" if "every installation" in needed[name] else ", ".join(sorted(needed[name]))
        rows.append(f"| {package.metadata['Name']} | {package.version} | {licence(package)} | {by} |\n")
    PAGE.write_text(HEAD + "".join(rows), encoding="utf-8")
    print(PAGE)


def licence(package: metadata.Distribution) -> str:
    """By its expression, its field, or its classifiers."""
    said = package.metadata.get("License-Expression") or ""
    if not said:
        classified = [
            c.split(" :: ")[-1] for c in package.metadata.get_all("Classifier") or [] if c.startswith("License ::")
        ]
        field = (package.metadata.get("License") or "").strip()
        lines = field.splitlines()
        said = field if len(lines) == 1 and len(field) <= _LONGEST else ""
        said = said or ", ".join(c for c in classified if c != "OSI Approved") or (lines[0] if lines else "not said")
    return re.sub(r"[|\n]", " ", said)


def _closure(name: str, extras: frozenset[str]) -> set[str]:
    """`name` and all that it asks for, where it is installed."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(name, extras)]
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        try:
            requirements = metadata.requires(one[0]) or []
        except metadata.PackageNotFoundError:
            continue
        seen.add(one)
        for text in requirements:
            requirement = Requirement(text)
            if any(requirement.marker is None or requirement.marker.evaluate({"extra": e}) for e in one[1] or {""}):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen}


if __name__ == "__main__":
    main()
