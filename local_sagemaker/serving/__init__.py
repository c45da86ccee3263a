"""Models, the registry, endpoints and what serves them."""
