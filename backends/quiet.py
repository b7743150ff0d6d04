"""What libraries print and log while they load or convert, kept away from the terminal."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Send what is written to the standard streams, by C++ code too, and warnings,
    nowhere: what is wrong is raised."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    for stream, _ in kept:
        os.dup2(nowhere, stream)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in kept:
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)
        logging.disable(level)
