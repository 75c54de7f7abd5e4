"""Chat formats: how a conversation is written for a model, and how its text is read back."""
