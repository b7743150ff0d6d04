"""Whole models: read, fitted to another layout, written, proved."""
