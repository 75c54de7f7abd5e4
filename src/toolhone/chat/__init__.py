"""Renders conversations for a model, and parses the model's text."""
