"""Check within seconds whether the Hugging Face hub answers.

huggingface_hub retries every file for about a minute, with a warning each time. So the hub is checked once before any
download. This module imports no model library, so commands can check the hub before they load those.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_session, try_to_load_from_cache

from toolhone.errors import UserError
from toolhone.launcher import rank

_WAIT_S = 3.0
"""Time limit for connecting to the hub, and again for its answer."""


@functools.cache  # the hub is asked once per process
def hub_fault() -> str | None:
    """Return why the hub does not answer, within seconds; None if it answers or HF_HUB_OFFLINE is set."""
    if constants.is_offline_mode():
        return None
    found = ["no answer"]

    def ask() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=_WAIT_S).status_code
            # Any other status is an answer: a mirror need not serve its front page.
            found[0] = f"status {status}" if status >= 500 else ""
        except httpx2.HTTPError as error:
            found[0] = str(error) or "no answer"

    # In a thread, because the lookup of the host's name has no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2 * _WAIT_S + 1)
    return found[0] or None


def unreachable(key: str, what: str, instead: str) -> str:
    """Return the error message for a download while the hub cannot be reached. `instead` is another way to fix it."""
    return (
        f"{key}: cannot reach the hub ({constants.ENDPOINT}: {hub_fault()}) to download {what}. Check the network, set "
        f"HF_ENDPOINT to a mirror, or {instead}"
    )


def reach_hub_or_cache(name: str, revision: str | None, *, key: str = "model.name") -> None:
    """Check that the hub answers, or that its cache has the model. In the second case all later calls are offline.
    A model in a local folder needs no check.

    Raises:
        UserError: if the hub does not answer and the cache lacks the model.
    """
    if Path(name).is_dir() or is_path(name) or hub_fault() is None or constants.is_offline_mode():
        return
    if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        raise UserError(unreachable(key, name, "use a local folder"))
    if rank() == 0:
        where = f"the hub cannot be reached ({constants.ENDPOINT}: {hub_fault()})"
        print(f"note: {where}; using {name} from the cache", file=sys.stderr, flush=True)
    # The libraries read the first, PEFT and child processes the second.
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"


def is_path(name: str) -> bool:
    """Return whether a model's name is a path (which may not exist) and not a name on the hub."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep in name and Path(name).parent.is_dir())
