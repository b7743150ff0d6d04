"""The machine that is measured on: what it is, and what it does at the moment."""
