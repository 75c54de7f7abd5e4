"""Uploads an export to the Hugging Face hub, as one commit.

In: the folder of an export. Out: a model repository with exactly its files. The repository is private unless the user
asks for a public one: rows of private data may be quoted in a model's answers, and a repository can be opened later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    hf_hub_url,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from toolhone import __version__
from toolhone.errors import UserError
from toolhone.hub import hub_fault, unreachable

_HOW_TO_LOG_IN = "run `hf auth login` with a token that may write, or set HF_TOKEN"
FACTS = "toolhone.json"
"""The file of an export that says what it is made from. It marks a folder or a repository as an export."""

_FAILURES = (HfHubHTTPError, OSError, RuntimeError)
"""What the client raises if the hub refuses a request, or a connection or an upload breaks off."""

_MADE_BY_HUB = {".gitattributes", "README.md", "LICENSE"}
"""Files that a new repository may have before anything is uploaded."""


def check_push(name: str, run: str, *, public: bool) -> None:
    """Check, before any work, that an export of the run can be uploaded.

    Raises:
        UserError: if the name is not OWNER/NAME, the hub cannot be reached, there is no valid token, or the repository
            has something else.
    """
    try:
        hf_hub_url(name, FACTS)  # sends no request; only checks the form of the name
        is_name = name.count("/") == 1
    except HFValidationError:
        is_name = False
    if not is_name:
        raise UserError("--push: expected OWNER/NAME, for example acme/order-bot")
    if constants.is_offline_mode():
        raise UserError("--push: HF_HUB_OFFLINE is set; unset it, or leave out --push")
    if hub_fault() is not None:
        raise UserError(unreachable("--push", "nothing but the state of the repository", "leave out --push"))
    if get_token() is None:
        raise UserError(f"--push: you are not logged in to the hub; {_HOW_TO_LOG_IN}")
    api = HfApi()
    try:
        api.whoami()
        _check_repository(api, name, run, public=public)
    except _FAILURES as error:
        raise UserError(_failure(name, error)) from None


def _check_repository(api: HfApi, name: str, run: str, *, public: bool) -> None:
    """Check that the repository does not exist, is empty, or has an export of the run."""
    try:
        found = api.model_info(name)
    except RepositoryNotFoundError:
        return
    files = {sibling.rfilename for sibling in found.siblings or ()}
    if not found.private and not public:
        raise UserError(f"--push: {name} is public; add --public, or choose another name")
    if not files - _MADE_BY_HUB:
        return
    facts: Any = {}
    if FACTS in files:
        facts = json.loads(Path(api.hf_hub_download(name, FACTS)).read_text(encoding="utf-8"))
    other = facts.get("run") if isinstance(facts, dict) else None
    if other != run:
        what = "files that are no export" if other is None else f"an export of the run {other}"
        raise UserError(f"--push: {name} has {what}; choose another name, or delete the repository")


def push_folder(folder: Path, name: str, *, public: bool) -> str:
    """Upload the files of an export and delete all other files of the repository, in one commit. Returns its address.

    Raises:
        UserError: if the hub refuses it.
    """
    api = HfApi()
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    try:
        url = api.create_repo(name, private=not public, exist_ok=True)
        # Files of an earlier export must not mix with these. `upload_folder` may take several commits.
        stale = set(api.list_repo_files(name)) - set(files) - {".gitattributes"}
        api.create_commit(
            repo_id=name,
            operations=[
                *(CommitOperationDelete(path) for path in sorted(stale)),
                *(CommitOperationAdd(path, file) for path, file in files.items()),
            ],
            commit_message=f"Export of toolhone {__version__}",
        )
    except _FAILURES as error:
        raise UserError(_failure(name, error)) from None
    return str(url)


def _failure(name: str, error: Exception) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return f"--push: the hub does not accept the token; {_HOW_TO_LOG_IN}"
    if status == 403:
        return f"--push: the token may not write to {name}; use one with write access, or a name of your own account"
    reason = str(error.__cause__ or error).strip().partition("\n")[0]
    return f"--push: {name}: the hub refused it or broke off ({reason}); try again, or leave out --push"
