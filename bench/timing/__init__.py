"""Is it fast: what is planned, measured in turn, and gone on with."""
