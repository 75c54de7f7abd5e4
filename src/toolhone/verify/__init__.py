"""The parity gate: whether a serving engine gives the prompts and answers of the run's own model."""
