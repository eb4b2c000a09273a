"""What can go wrong for a user, each a one-line message, and how a command ends because of it."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


class UserError(Exception):
    """Anything a user can mend. The message is one line: what, found, expected, way out."""

    exit_status = 2


class BadInput(UserError):
    """A data file or a flag is wrong."""


class BrokenFile(UserError):
    """A checkpoint or model file cannot be read, or does not hold what it should."""


class SaveError(UserError):
    """A file could not be written; what was there before is untouched."""


class TrainingFailed(UserError):
    """Training cannot go on; the last good checkpoint is kept."""

    exit_status = 1


class Interrupted(UserError):
    """SIGINT or SIGTERM arrived; the checkpoint has been saved."""

    exit_status = 130


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
    """Runs a command; a user's error becomes one line on stderr and an exit status, no traceback."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Interrupted.exit_status
    return 0
