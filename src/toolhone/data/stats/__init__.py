"""What a data set is made of: counts, tokens, the expected gain of prefix trees."""
