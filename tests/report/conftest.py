"""Fixtures of the report tests."""

from scored_run import scored_run

__all__ = ["scored_run"]
