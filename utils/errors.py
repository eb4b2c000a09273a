"""What can go wrong for a user, each a one-line message, and how a command ends because of it."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from utils import interrupts
from utils.progress import say

Value = TypeVar("Value")


LONGEST_MESSAGE = 500  # letters: a page of numbers that a file holds hides what is said of it


class UserError(Exception):
    """Anything a user can mend. The message is one line: what, found, expected, way out."""

    exit_status = 2

    def __init__(self, message: str):
        super().__init__(one_line(message))


class BadInput(UserError):
    """A data file or a flag is wrong."""


class BrokenFile(UserError):
    """A checkpoint or model file cannot be read, or does not hold what it should."""


class SaveError(UserError):
    """A file could not be written; what was there before is untouched."""

    def __init__(self, message: str, path: Path | None = None):
        super().__init__(message)
        self.path = path


class TrainingFailed(UserError):
    """Training cannot go on; the last good checkpoint is kept."""

    exit_status = 1


class Interrupted(UserError):
    """A signal asked for the end, and what was to be saved has been. No error: the message says where things stand."""

    exit_status = interrupts.STATUS


class Unsaved:
    """What could not be written of all that a run can do without; the rest is computed and written all the same."""

    def __init__(self):
        self.errors: list[SaveError] = []

    def attempt(self, write: Callable[..., Value], *args) -> Value | None:
        """`write(*args)`; a SaveError is said, remembered, and makes it None."""
        try:
            return write(*args)
        except SaveError as error:
            self.errors.append(error)
            say(f"warning: {error}", sys.stderr)
            return None

    def holds(self, path: Path) -> bool:
        """Whether `path` could not be written: what is there, if anything, is of an earlier run."""
        return any(error.path == path for error in self.errors)

    def raise_first(self) -> None:
        """At the end of a command: raises SaveError where there was any."""
        if self.errors:
            more = f" (and {len(self.errors) - 1} more, see above)" if len(self.errors) > 1 else ""
            raise SaveError(f"not all was saved: {self.errors[0]}{more}")


def one_line(message: str) -> str:
    """A message as a line that a terminal can show, whatever it quotes: line ends and control characters are escaped.

    Of one that is too long the middle is left out: it begins with the file and ends with the way out.
    """
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    half = LONGEST_MESSAGE // 2
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:half]} ... {line[-half:]}"


def in_short(error: OSError | UnicodeError) -> str:
    """What the system says of a failure, without its number and the file's name."""
    reason = getattr(error, "strerror", None) or str(error)
    return reason.splitlines()[0][:200] if reason else type(error).__name__


@contextlib.contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Puts the file's name in front of what is found wrong with its content."""
    try:
        yield
    except BrokenFile as error:
        raise BrokenFile(f"{path}: {error}") from error


def first_line(error: BaseException) -> str:
    """What another library's exception says, to be part of a message: one short line without control characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "".join(letter if letter.isprintable() else "?" for letter in lines[0][:100])


def exit_cleanly(main: Callable[[], None]) -> int:
    """Runs a command; a user's error becomes one line on stderr and an exit status, no traceback.

    So does what the system refuses, where nobody nearer knew better. SIGTERM ends it as Ctrl-C does.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may have letters that the locale lacks
    try:
        with interrupts.signals_call(interrupts.interrupt):
            main()
    except Interrupted as stop:
        return _end(str(stop), stop.exit_status)
    except UserError as error:
        return _end(f"error: {error}", error.exit_status)
    except KeyboardInterrupt:
        return _end("interrupted", interrupts.STATUS)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _end(f"error: {where}{in_short(error)}", UserError.exit_status)
    except UnicodeError as error:
        return _end(
            f"error: a text or a name is not in the encoding expected: {in_short(error)}", UserError.exit_status
        )
    return 0


def _end(line: str, status: int) -> int:
    say(line, sys.stderr)
    return status
