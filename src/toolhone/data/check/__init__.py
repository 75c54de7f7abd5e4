"""Checks conversations for what a model must not learn. Each finding has a place and says how to fix it."""

from toolhone.data.check.finding import Finding
from toolhone.data.check.survey import Survey, check, refuse_faults

__all__ = ["Finding", "Survey", "check", "refuse_faults"]
