"""Fingerprints: short hashes that say whether two things were made from the same inputs."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits of the SHA-256 of the parts as JSON, keys sorted."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
