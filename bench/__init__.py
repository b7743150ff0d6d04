"""Runs implementations over cases and tells about it; imports the reference and the backends.

Law of this file: it imports nothing when loaded, for pytest imports it under the name of the folder
that it lies in.
"""
