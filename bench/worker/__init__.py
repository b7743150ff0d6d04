"""Processes of their own that measure."""
