"""Fixtures of the evaluation tests."""

from judged import judged_run

__all__ = ["judged_run"]
