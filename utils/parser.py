"""How flags and config files are read: switches with an opposite, and one line for whatever is wrong."""

import argparse
import difflib
import io
import sys
from pathlib import Path

import configargparse

from utils.errors import one_line
from utils.text_files import SAVE, read_text


class Switch(argparse._StoreTrueAction):
    """A flag without a value, off unless given. Its opposite, `--no_NAME` or for `--no_NAME` `--NAME`, takes it back.

    `action="store_true"` makes one: a config may turn a switch on, and the command line turn it off.
    """

    def __init__(self, option_strings: list[str], dest: str, **options):
        super().__init__([*option_strings, *map(opposite, option_strings)], dest, **options)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, option_string in self.option_strings[: len(self.option_strings) // 2])

    def format_usage(self) -> str:
        return self.option_strings[0]


def opposite(flag: str) -> str:
    return f"--{flag[5:]}" if flag.startswith("--no_") else f"--no_{flag[2:]}"


class ShowsSwitchesOnce(argparse.HelpFormatter):
    """Shows a switch and its opposite as one in the help, and a default only where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_it = action.default is None or isinstance(action, Switch) or "(default" in (action.help or "")
        return action.help if says_it else super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, Switch) and not action.dest.startswith("no_"):
            return f"--[no_]{action.dest}"
        return super()._format_action_invocation(action)


class Parser(configargparse.ArgumentParser):
    """Reports a wrong flag, value or config key in one line, with the nearest name that exists."""

    def __init__(self, formatter_class: type[argparse.HelpFormatter] = argparse.HelpFormatter, **options):
        help_formatter = type("HelpFormatter", (ShowsSwitchesOnce, formatter_class), {})
        super().__init__(
            formatter_class=help_formatter, allow_abbrev=False, config_file_open_func=open_config, **options
        )
        self.register("action", "store_true", Switch)

    def convert_item_to_command_line_arg(self, action, key: str, value) -> list[str]:
        """The words of the command line that a line of a config file means."""
        if not isinstance(action, Switch):
            return super().convert_item_to_command_line_arg(action, key, value)
        if isinstance(value, list):
            self.error(f"{key} = {value}: expected True or False")
        flag = f"--{key.removeprefix('--')}"
        turned_on = super().convert_item_to_command_line_arg(action, key, value)
        return [flag if turned_on else opposite(flag)]

    def error(self, message: str) -> None:
        hint = ""
        if message.startswith("unrecognized arguments:"):
            wrong = message.split(":", 1)[1].split()[0].split("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            close = difflib.get_close_matches(wrong, known, n=1)
            message = f"unknown flag or config key {wrong}"
            hint = f"; did you mean {close[0]}?" if close else "; --help lists all flags"
        print(f"{self.prog}: error: {one_line(' '.join(message.split()))}{hint}", file=sys.stderr)
        sys.exit(2)


def open_config(path: str) -> io.StringIO:
    """A config file's text. What is wrong with it `configargparse` reports, behind the file's name."""
    if Path(path).exists() and not Path(path).is_file():  # a pipe or a device may never end
        raise ValueError("it is no plain file")
    text = read_text(Path(path), SAVE)
    if "\0" in text:
        raise ValueError(f"it holds bytes of zero, as UTF-16 does: {SAVE}")
    stream = io.StringIO(text)
    stream.name = path
    return stream


LARGEST = 10**12  # of a flag's number: beyond, it is a slip


def positive(kind: type):
    """An argparse type: a number of `kind` above zero."""

    def parse(text: str):
        value = kind(text)
        if not 0 < value <= LARGEST:
            raise argparse.ArgumentTypeError(f"{text} is not above zero{' and finite' * (value > 0)}")
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def within(kind: type, low: float, high: float = LARGEST):
    """An argparse type: a number of `kind` from `low` to `high`, both included."""

    def parse(text: str):
        value = kind(text)
        if not low <= value <= high:
            above = f"from {low:g} to {high:g}" if high < LARGEST else f"{low:g} or more, and finite"
            raise argparse.ArgumentTypeError(f"{text}: expected {above}")
        return value

    parse.__name__ = kind.__name__
    return parse
