"""Exit status of the commands, and where their errors go."""

from rich.console import Console

FINE, FAILED, MISUSED = 0, 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

err = Console(stderr=True, highlight=False, emoji=False)
