"""Turn rows of any format into checked, split training data, and generate new rows."""
