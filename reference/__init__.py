"""The truth: the patch embedding in plain NumPy, its bounds and its probes.

Law of this floor: it imports numpy and ml_dtypes and nothing else, neither a framework nor a floor
above it.
"""
