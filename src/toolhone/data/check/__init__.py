"""Checking conversations: what a model must not be taught, each finding with its place and how to mend it."""

from toolhone.data.check.finding import Finding
from toolhone.data.check.passes import Survey, check, refuse_faults, refuse_findings

__all__ = ["Finding", "Survey", "check", "refuse_faults", "refuse_findings"]
