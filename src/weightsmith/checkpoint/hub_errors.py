"""What goes wrong with the hub, as one sentence that says what to do."""

from __future__ import annotations

import errno

_WAIT = "Retry-After"


def hub_reason(error: Exception) -> str:
    """Why a call of huggingface_hub failed, without the name of the repository."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause = error.__cause__
    if isinstance(error, LocalEntryNotFoundError) and isinstance(cause, Exception):
        return hub_reason(cause)  # nothing in the cache either: why the hub did not give it says more
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{f' ({error.filename})' if error.filename else ''}; what was downloaded is kept"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token of the hub here: run `hf auth login`, or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return "access is granted by its authors: request it on its page, then run `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return "the hub has no such revision"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 0
    if isinstance(error, RepositoryNotFoundError) and status != 403:
        return "no such model on the hub (a private one needs `hf auth login`)"
    if status == 401:
        return "the hub does not accept your token: run `hf auth login` again, or set HF_TOKEN anew"
    if status == 403:
        return f"your token may not do that{_said(error)}: make one that may write there (hf.co/settings/tokens)"
    if status == 404:
        return f"the hub has nothing there{_said(error)}"
    if status == 429 and isinstance(error, HfHubHTTPError):
        wait = error.response.headers.get(_WAIT, "")
        after = f"{wait} s" if wait.isdecimal() else "some minutes"
        return f"too many requests to the hub: run it again in {after}, which takes what is finished"
    if status:
        return f"the hub answers {status}{_said(error)}: run it again later, which takes what is finished"
    first = str(error).splitlines()[0] if str(error) else ""
    return f"the hub cannot be reached: {type(error).__name__}: {first}"


def _said(error: Exception) -> str:
    message = getattr(error, "server_message", None)
    first = str(message).splitlines()[0][:200] if message else ""
    return f" ({first})" if first else ""
