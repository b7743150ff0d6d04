"""Exit status of the commands."""

FINE, FAILED, MISUSED = 0, 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
