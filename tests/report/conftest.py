"""Fixtures of the report tests."""

from judged import judged_run

__all__ = ["judged_run"]
