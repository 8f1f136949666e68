"""Which libraries are here, by the extras that ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

PACKAGE = "weightsmith"
_WHAT_FOR = {
    "": "inspect, unify, merge, verify, push",
    "gguf": "export to GGUF, GGUF files evaluated",
    "eval": "evaluate with questions and texts",
    "bench": "evaluate with benchmarks of lm-evaluation-harness",
    "report": "reports of run, evaluate, search, ablate",
    "search": "search, ablate",
    "ray": "merge --ray",
    "demo": "demo",
    "ui": "ui",
}


@dataclass(frozen=True)
class Extra:
    """`name`: empty for what every installation has; `missing`: library -> what is there instead of the version that
    is needed, or nothing; `install`: the command that brings it."""

    name: str
    what_for: str
    missing: dict[str, str]
    install: str

    @property
    def works(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


def check_extras() -> tuple[Extra, ...]:
    """All extras that a user may ask for. Nothing is imported."""
    return tuple(_extra(name, what_for) for name, what_for in _WHAT_FOR.items())


def _extra(name: str, what_for: str) -> Extra:
    missing = {}
    for requirement in _requirements(name, set()):
        problem = _problem(requirement)
        if problem is not None:
            missing[str(requirement.name)] = problem
    target = f"{PACKAGE}[{name}]" if name else PACKAGE
    return Extra(name, what_for, missing, f"pip install --upgrade '{target}'")


def _requirements(extra: str, seen: set[str]) -> Iterator[Requirement]:
    """Of an extra, with those of the extras it asks for."""
    seen.add(extra)
    for text in metadata.requires(PACKAGE) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        without, within = (marker is None or marker.evaluate({"extra": value}) for value in ("", extra))
        if not within or (extra and without):
            continue
        if requirement.name == PACKAGE:
            for other in sorted(requirement.extras - seen):
                yield from _requirements(other, seen)
        else:
            yield requirement


def _problem(requirement: Requirement) -> str | None:
    """None where it is there; else the version that is there, or `not installed`."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "not installed"
    fits = requirement.specifier.contains(version, prereleases=True)
    return None if fits else f"{version}, which is not {requirement.specifier}"
