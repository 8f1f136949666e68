"""One process for all that models bring along to be run. Each request has a limit of time and of memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from weightsmith.child_process import ChildDied, ChildProcess, ChildTookTooLong

SECONDS = 10.0  # of one request; a template takes milliseconds
MEMORY = 512 << 20  # bytes of one request beyond what the process already holds

_children: dict[int, ChildProcess] = {}  # by process: a fork does not share its parent's


class LimitExceeded(Exception):
    """The text says which limit, as the end of a sentence."""


def ask_limited(request: Mapping[str, Any], *, seconds: float = SECONDS, memory: int = MEMORY) -> dict[str, Any]:
    """The answer to a request that `serve_untrusted.py` knows. Raises LimitExceeded."""
    child = _children.get(os.getpid())
    if child is None:
        _children.clear()
        child = _children[os.getpid()] = ChildProcess("weightsmith.tokenizer.untrusted.serve_untrusted")
    try:
        answer, _ = child.ask({**request, "memory": memory}, seconds=seconds)
    except ChildTookTooLong as error:
        _forget(child)
        raise LimitExceeded(f"has no result after {seconds:g} seconds") from error
    except ChildDied as error:
        _forget(child)
        raise LimitExceeded(f"cannot be run: {error}") from error
    except BaseException:
        _forget(child)
        raise
    if "memory" in answer:
        raise LimitExceeded(f"needs more than {memory >> 20} MB of memory")
    return answer


def _forget(child: ChildProcess) -> None:
    _children.pop(os.getpid(), None)
    child.close()
