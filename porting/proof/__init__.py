"""What was read or written, run where it is used, and compared."""
