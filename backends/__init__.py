"""One file per framework, the same surface in each. Imports the reference, never a floor above.

Laws of this floor: a framework is imported inside a backend's methods only, so that listing
backends imports none of them; a module of this folder with a `BACKENDS` tuple holds backends, and
there is no other list.
"""
