"""toolhone: tune a small model to call your tools, and prove that it does."""

__version__ = "0.1.0"
