"""Names and axes as data, and how a checkpoint is recognized in them: no bytes."""
