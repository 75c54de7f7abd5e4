"""Public benchmarks, answered by a run's models or an endpoint."""
