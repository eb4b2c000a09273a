"""The progress of long work: a bar in a terminal, a plain line every half minute where output is a file."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

from tqdm import tqdm

FIRST_LINE = 1.0  # seconds after which a log hears that work has begun
LINE_INTERVAL = 30.0  # seconds between its lines from then on


class ProgressLines:
    """What a `tqdm` bar of the same arguments does, as lines for a log: `float: step 40 of 5000, PSNR ..., 3:05 left`.

    Nothing is said of what is over before the first line is due, unless it is to be left behind.
    """

    def __init__(
        self,
        iterable: Iterable | None = None,
        desc: str = "",
        total: int | None = None,
        initial: int = 0,
        unit: str = "step",
        leave: bool = True,
        delay: float | None = None,
        disable: bool = False,
    ):
        self.iterable, self.desc, self.unit, self.leave, self.disable = iterable, desc, unit, leave, disable
        self.total = len(iterable) if total is None and hasattr(iterable, "__len__") else total
        self.initial = self.n = initial
        self.postfix = ""
        self._spoke = False
        self._started = time.monotonic()
        self._due = self._started + (FIRST_LINE if delay is None else delay)

    def __iter__(self) -> Iterator:
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        self.n += count
        now = time.monotonic()
        if now >= self._due and self.n != self.total:  # else `close` is about to speak
            self._due = now + LINE_INTERVAL
            spent = now - self._started
            if self.total is None:
                self._say(f"{duration(spent)} so far")
            else:
                self._say(f"{duration(spent / (self.n - self.initial) * (self.total - self.n))} left")

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        self.postfix = text

    def write(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        now = time.monotonic()
        if self.n > self.initial and (self.leave or self._spoke or now >= self._due):
            self._say(f"took {duration(now - self._started)}")
        self.initial = self.n  # so that nothing is left to be said

    def _say(self, ending: str) -> None:
        if self.disable:
            return
        self._spoke = True
        count = f"{self.unit} {self.n}" + ("" if self.total is None else f" of {self.total}")
        line = ", ".join(part for part in (count, self.postfix, ending) if part)
        say(f"{self.desc}: {line}" if self.desc else line, sys.stderr)


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a line, above the bar if there is one. Where it cannot, as to a log on a full disk, work goes on."""
    with contextlib.suppress(OSError):
        tqdm.write(text, file or sys.stdout)
        (file or sys.stdout).flush()


def duration(seconds: float) -> str:
    """Such as 0:05, 12:30 or 3:00:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def progress_bar(iterable: Iterable | None = None, **options) -> tqdm | ProgressLines:
    """A bar that redraws often in a terminal; where output is a file, lines."""
    if sys.stderr.isatty():
        return tqdm(iterable, mininterval=0.2, **options)
    return ProgressLines(iterable, **options)


def brief_bar(iterable: Iterable | None = None, **options) -> tqdm | ProgressLines:
    """One for what mostly is over soon: it comes after two seconds and leaves nothing behind."""
    return progress_bar(iterable, delay=2, leave=False, **options)
