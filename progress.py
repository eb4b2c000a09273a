"""The progress bar of long work, in a terminal and in a log file."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress_bar(iterable: Iterable | None = None, **options) -> tqdm:
    """A tqdm bar that redraws often in a terminal, and every half minute where output is a file."""
    return tqdm(iterable, mininterval=0.2 if sys.stderr.isatty() else 30, **options)


def brief_bar(iterable: Iterable | None = None, **options) -> tqdm:
    """A bar for what mostly is over soon: it comes after two seconds and leaves nothing behind."""
    return progress_bar(iterable, delay=2, leave=False, **options)
