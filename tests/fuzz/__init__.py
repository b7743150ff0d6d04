"""Mutated files, structure-aware, against the readers: `python -m tests.fuzz` (`tox run -m fuzz`);
outside CI."""
