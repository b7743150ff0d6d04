"""Moving the weights: the project's own files, and the dialects of other libraries."""
