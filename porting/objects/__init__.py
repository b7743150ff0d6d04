"""Somebody's live module: read, called, built, filled."""
