"""PyTorch: the adapter, its formulations, the lines that `recommend` shows, and the fused
kernel."""

from .adapter import BACKENDS, TorchBackend, as_tensor, fused_patch_embed

__all__ = ["BACKENDS", "TorchBackend", "as_tensor", "fused_patch_embed"]
