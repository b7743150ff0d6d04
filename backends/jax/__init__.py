"""JAX: the adapter, its formulations, and the lines that `recommend` shows."""

from .adapter import BACKENDS, JaxBackend

__all__ = ["BACKENDS", "JaxBackend"]
