"""What was measured, as it is kept."""
