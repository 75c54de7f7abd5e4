"""Evaluation: what the model answers, how it is judged, and the report that people act on."""
