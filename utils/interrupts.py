"""Signals that end a command: one line and a status, from its first import on. Imports nothing that takes time."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

STATUS = 130


def exit_at_once() -> None:
    """From now on a signal ends the process on the spot: for the seconds in which there is nothing to lose yet.

    Call it before importing torch: a KeyboardInterrupt in the middle of that is a page of traceback.
    """

    def leave(*_) -> None:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(STATUS)

    for number in heeded():
        signal.signal(number, leave)


@contextlib.contextmanager
def signals_call(handler: Callable) -> Iterator[None]:
    """While entered, signals call `handler`."""
    previous = {}
    for number in heeded():
        with contextlib.suppress(ValueError):  # not in the main thread: leave signals alone
            previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def heeded() -> list[int]:
    """The signals that end a command: Ctrl-C's, `kill`'s, and unless under nohup that of a closed terminal."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    ignored = hangup is None or signal.getsignal(hangup) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM] + ([] if ignored else [hangup])


def interrupt(*_) -> None:
    """A handler that makes any signal act as Ctrl-C does."""
    raise KeyboardInterrupt
