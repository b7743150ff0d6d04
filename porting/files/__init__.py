"""Checkpoint files, a format a file: each reads and writes its own."""
