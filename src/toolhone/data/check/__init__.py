"""Checking conversations: what a model must not be taught, each finding with its place and how to fix it."""

from toolhone.data.check.finding import Finding
from toolhone.data.check.survey import Survey, check, refuse_faults

__all__ = ["Finding", "Survey", "check", "refuse_faults"]
