"""Exports a run for serving engines."""
