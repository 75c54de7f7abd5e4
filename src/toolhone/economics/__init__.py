"""Should a small model be tuned for this? From volume, prices, accuracy and data to a verdict, and what would
turn it."""
