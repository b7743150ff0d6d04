"""What records answer: comparisons, and what to use."""
