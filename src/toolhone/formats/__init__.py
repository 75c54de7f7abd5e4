"""The chat formats: how turns and calls are written as text, and read back."""
