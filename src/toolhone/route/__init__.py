"""When the small model should answer, and when a larger one."""
