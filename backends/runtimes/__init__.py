"""Runtimes that people deploy on: each makes a model of the weights with its own converter, and
runs it."""
