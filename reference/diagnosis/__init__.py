"""Which mistake explains an output: known ones made on purpose, fitted ones, and pairs of both."""
