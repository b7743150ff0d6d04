"""Weights, from one library to another: port, verify, inspect, embed.

Laws of this wing: `files` knows bytes and no dialect; `dialects` knows names and axes and no
framework; `objects` holds somebody's live module; `proof` runs what was read where it is used.
"""
