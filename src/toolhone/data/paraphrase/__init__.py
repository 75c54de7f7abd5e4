"""Other words for the same request, from an endpoint, every argument value kept."""
