"""Fixtures of the evaluation tests."""

from scored_run import scored_run

__all__ = ["scored_run"]
