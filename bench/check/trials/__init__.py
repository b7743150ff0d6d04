"""What `check` tries of somebody's object."""
