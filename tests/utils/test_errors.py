"""What a user is told of an error: one line, however odd what it quotes."""

import pytest

from utils.errors import LONGEST_MESSAGE, BadInput, exit_cleanly, one_line


def test_a_message_stays_as_it_is():
    message = "data/größe 1/transforms.json: camera_angle_x is '60'; expected radians \u2014 \u65e5\u672c"
    assert str(BadInput(message)) == message


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", "\x1b[31mred", "\ud800", "\0", "images/\u202egpj.png", "a\u2028b"])
def test_what_is_quoted_can_neither_end_the_line_nor_move_the_cursor(capsys, name):
    def fails() -> None:
        raise BadInput(f"{name}: no such image")

    assert exit_cleanly(fails) == 2
    line = capsys.readouterr().err
    assert line.removesuffix("\n").isprintable() and line.endswith(": no such image\n") and len(line.splitlines()) == 1


def test_of_a_long_message_file_and_way_out_are_kept():
    message = f"bbox.txt: corners {[0.123456789] * 10_000}; expected six numbers: mend the file"
    line = one_line(message)
    assert len(line) <= LONGEST_MESSAGE + len(" ... ")
    assert line.startswith("bbox.txt: corners [0.123") and line.endswith("; expected six numbers: mend the file")
