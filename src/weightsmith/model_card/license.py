"""The license of a merge, from what its inputs' own cards say."""

from __future__ import annotations

from dataclasses import dataclass

from weightsmith.model_card.provenance import InputModel, InputPart


@dataclass(frozen=True)
class License:
    """`keys`: of a card's head, empty where the inputs do not agree; `warning`: then why, in one sentence."""

    keys: dict[str, str]
    warning: str | None = None


def license_of(inputs: tuple[InputModel, ...]) -> License:
    """The license that all inputs have; none where one has another, or says nothing.

    >>> license_of(()).keys
    {}
    """
    parts = list(dict.fromkeys(part for model in inputs for part in model.parts))
    known = [part for part in parts if part.license]
    if not known:
        return License({})
    silent = [part.title for part in parts if not part.license]
    if len({_terms(part) for part in known}) > 1:
        named = "; ".join(f"{part.title}: {part.license_name or part.license}" for part in known)
        return License({}, f"the inputs have different licenses ({named}): decide which one the result can have")
    if silent:
        return License(
            {},
            f"{known[0].title} has the license {known[0].license_name or known[0].license}, and the card of "
            f"{', '.join(silent)} names none: add `license` to the head of README.md if it is the same",
        )
    return License({key: value for key in _KEYS if (value := getattr(known[0], key))})


_KEYS = ("license", "license_name", "license_link")


def _terms(part: InputPart) -> tuple[str | None, str | None]:
    """`other` is told apart by its name."""
    return part.license, part.license_name
