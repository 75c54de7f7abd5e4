"""A sheet of doubtful rows for a person to mark, and the marks read back into the data."""
