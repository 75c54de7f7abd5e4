"""What a call costs, and whether to tune a small model: from volume, prices, accuracy and data to a verdict."""
