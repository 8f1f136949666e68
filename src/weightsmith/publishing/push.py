"""`weightsmith push`: an output to the Hugging Face hub."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weightsmith.checkpoint.hub_errors import hub_reason
from weightsmith.errors import OutputError, WeightsmithError, shown
from weightsmith.publishing.push_files import PushFiles, files_to_push

_REPO = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")


@dataclass(frozen=True)
class PushSummary:
    """`url`: of the repository; None of a dry run."""

    repo: str
    url: str | None
    files: PushFiles


def push(
    out: Path | str,
    repo: str,
    *,
    private: bool = False,
    types: Sequence[str] = (),
    dry_run: bool = False,
) -> PushSummary:
    """Upload a merged folder, a folder of GGUF files, or the folder of a run to the model `repo` (`owner/name`) of the
    hub, which is made where it is not there yet.

    Weights, tokenizer, GGUF files and the model card go; what is about this machine does not. The card's code then
    names `repo`, and `merge_recipe.yml` no paths. `types`: GGUF types, all if empty. `private`: a repository that is
    made now is. `dry_run`: nothing is sent. A push that was interrupted is continued by the same call: what the hub has
    is not sent again. Files that are only there stay. Raises OutputError.

    >>> ws.push("coder", "me/coder", dry_run=True).url is None
    True
    """
    out = Path(out)
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise OutputError(f"{shown(repo)}: is not the name of a model on the hub, OWNER/NAME")
    if not out.is_dir():
        raise OutputError(f"{out}: no such folder; name the output of a merge, an export or a run", path=out)
    files = files_to_push(out, repo, types=types)
    if dry_run:
        return PushSummary(repo, None, files)
    return PushSummary(repo, _upload(files, repo, private=private), files)


def _upload(files: PushFiles, repo: str, *, private: bool) -> str:
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise OutputError(
            f"{repo}: not pushed: there is no token of the hub here: run `hf auth login`, or set HF_TOKEN"
        )
    hub = HfApi()
    with tempfile.TemporaryDirectory(prefix="weightsmith-push-") as folder:
        _stage(files, Path(folder))
        try:
            url = hub.create_repo(repo, private=private, exist_ok=True)
            hub.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Upload with weightsmith")
        except WeightsmithError:
            raise
        except Exception as error:
            raise OutputError(f"{repo}: not pushed: {hub_reason(error)}") from error
    return str(url)


def _stage(files: PushFiles, folder: Path) -> None:
    """A folder that holds what is sent, weights as links."""
    for name, path in files.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.symlink(path.absolute(), target)
        except OSError:  # a system that allows none
            shutil.copyfile(path, target)
    for name, text in files.texts.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
