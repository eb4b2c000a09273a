"""What can go wrong for a user, each a one-line message, and how a command ends because of it."""

import sys
from collections.abc import Callable

LONGEST = 600  # characters of a message, whatever it quotes


class UserError(Exception):
    """Anything a user can mend. The message is one line: what, found, expected, way out."""

    exit_status = 2

    def __init__(self, message: str):
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """`text` as any terminal shows it: what cannot be printed is escaped, and the middle of what is long left out."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} [...] {text[-190:]}"


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
