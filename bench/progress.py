"""A progress bar with an estimate of the time left, on stderr; a plain line every ten seconds where
that is no terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[float, float, str], None]
"""Called with what is done, what there is in all (in any unit), and what comes next."""

PLAIN_INTERVAL_SECONDS = 10.0


@contextmanager
def progress_bar(title: str, shown: bool = True) -> Iterator[Report | None]:
    """Show progress while inside; yields the function to report to, None where nothing is to be
    shown."""
    if not shown:
        yield None
        return
    from rich.console import Console  # 40 ms to load

    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn(title),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
        )
        with Progress(
            *columns,
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
        ) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total, what: bar.update(
                task, completed=done, total=total, description=what
            )
    else:
        started = last = time.monotonic()

        def report(done: float, total: float, what: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PLAIN_INTERVAL_SECONDS:
                last = now
                left = (
                    f"about {(now - started) / done * (total - done):.0f} s left, " if done else ""
                )
                console.print(f"{title}: {100 * done / total:.0f}%, {left}{what}")

        yield report


def part_of(progress: Report | None, begin: float, end: float, title: str) -> Report | None:
    """What a part of a work reports to, so that the whole counts once.

    Args:
        progress: of the whole; None where nobody asks.
        begin, end: where the part begins and ends, as shares of the whole.
        title: of the part.
    """
    if progress is None:
        return None
    share = 0.0

    def report(done: float, total: float, what: str) -> None:
        nonlocal share  # a part that turns out to have more to do goes on from where it is
        share = max(share, done / total if total else 0.0)
        progress(begin + (end - begin) * share, 1.0, f"{title}: {what}")

    return report
