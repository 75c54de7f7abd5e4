"""The server: a run's tuned model behind OpenAI's chat completions, alone or as the small model of a cascade."""
