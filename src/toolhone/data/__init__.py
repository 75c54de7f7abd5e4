"""From rows of any origin to checked, split training data; and the making of new rows."""
