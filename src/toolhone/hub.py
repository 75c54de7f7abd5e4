"""Whether the Hugging Face hub answers, found out in seconds.

huggingface_hub retries every file for about a minute, with a warning each time. So it is asked once before anything is
downloaded. It imports no model library, so commands can check it before they load those.
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

_WAIT_S = 3.0
"""How long the hub may take to connect, and again to answer."""


@functools.cache  # asked once a process
def hub_fault() -> str | None:
    """Why the hub does not answer, found out within seconds; None if it answers, or HF_HUB_OFFLINE forbids to ask."""
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

    # In a thread, since looking up the host's name has no time limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2 * _WAIT_S + 1)
    return found[0] or None


def unreachable(key: str, what: str, instead: str) -> str:
    """The error for a download while the hub cannot be reached. `instead`: what also helps."""
    return (
        f"{key}: cannot reach the hub ({constants.ENDPOINT}: {hub_fault()}) to download {what}. Check the network, set "
        f"HF_ENDPOINT to a mirror, or {instead}"
    )


def reach_hub_or_cache(name: str, revision: str | None, *, key: str = "model.name") -> None:
    """Check, for a model on the hub, that the hub answers or that the model is in its cache. If only the cache has it,
    all later calls are offline. A folder needs neither.

    Raises:
        UserError: if neither is so.
    """
    if Path(name).is_dir() or is_path(name) or hub_fault() is None or constants.is_offline_mode():
        return
    if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        raise UserError(unreachable(key, name, "use a local folder"))
    if os.environ.get("RANK", "0") == "0":
        where = f"the hub cannot be reached ({constants.ENDPOINT}: {hub_fault()})"
        print(f"note: {where}; using {name} from the cache", file=sys.stderr, flush=True)
    # The libraries read the first, PEFT and child processes the second.
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"


def is_path(name: str) -> bool:
    """Whether a model is named as a folder, which may be missing, and not as a model on the hub."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep in name and Path(name).parent.is_dir())
