"""Evaluation: the answers of models, their scores against the gold, and the figures over those."""
