"""Is it right: backends, somebody's objects, behavior."""
