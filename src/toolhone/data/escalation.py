"""The reserved call `escalate`, by which a model that has learned to hands a request over to a larger one.

It is offered, called, parsed and judged as any tool is. What is its own: training rows are made of it by `toolhone data
augment --escalate`, its calls are a class of their own in the figures, and routing takes one as the small model's no.
"""

from __future__ import annotations

from toolhone.records import Tool

ESCALATE = "escalate"
"""The reserved name."""


def escalate_tool() -> Tool:
    """The reserved tool. It takes no arguments, so that a hand-over is as easy to learn as a call can be."""
    description = "Hand the request over to a larger model: it is too complex, or out of scope."
    return Tool(ESCALATE, description, {"type": "object", "properties": {}, "required": []})
