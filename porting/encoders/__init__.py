"""Encoders: how each library names and lays out what stands behind the embedding stage, as data."""
