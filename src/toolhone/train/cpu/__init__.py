"""What makes training faster on a CPU, and nothing else."""
