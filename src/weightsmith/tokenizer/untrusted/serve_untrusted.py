"""The process that answers `ask_limited`: it runs what models bring along, and gives itself limits of memory."""

from __future__ import annotations

import os
import sys
from typing import Any

from weightsmith.child_process import serve_requests
from weightsmith.tokenizer.untrusted import chat_template, try_tokenizer

_REQUESTS = {"render": chat_template.answer_request, "tokenize": try_tokenizer.answer_request}


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    run = _REQUESTS[request["run"]]
    _limit_memory(request["memory"])
    try:
        return run(request), b""
    except MemoryError:
        return {"memory": True}, b""


def _limit_memory(allowance: int) -> None:
    """Let this process take `allowance` bytes more than it has. A no-op where the system cannot limit it."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as statm:
            held = int(statm.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = held + allowance
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    sys.setrecursionlimit(2000)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    serve_requests(_answer)
