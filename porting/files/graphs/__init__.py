"""Graphs of whole models, in which the embedding stage is found by what the image passes."""
