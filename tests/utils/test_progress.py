"""Progress where there is no terminal: plain lines, at once and every half minute."""

import re
import sys

import pytest
from helpers import SHORT, TINY, run

import run_nerf
from utils import progress
from utils.progress import brief_bar, duration, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A list whose one entry is the time, seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_after_a_second_and_every_half_minute(clock, capsys):
    with progress_bar(total=100, initial=20, desc="float", unit="step") as bar:
        for _ in range(80):
            clock[0] += 1.5
            bar.update()
            bar.set_postfix_str("PSNR 20.00 dB, 3.0k rays/s")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0] == "float: step 21 of 100, 1:58 left"  # before anything is known of its quality
    assert lines[1] == "float: step 41 of 100, PSNR 20.00 dB, 3.0k rays/s, 1:28 left"
    assert lines[-1] == "float: step 100 of 100, PSNR 20.00 dB, 3.0k rays/s, took 2:00"
    assert len(lines) == 5 and "\r" not in err and out == ""


def test_what_is_over_at_once_says_how_long_it_took(clock, capsys):
    for _ in progress_bar(range(3), desc="scenes", unit="scene"):
        clock[0] += 0.1
    assert capsys.readouterr().err == "scenes: scene 3 of 3, took 0:00\n"


@pytest.mark.parametrize("seconds, lines", [(0.5, 0), (1.5, 2)])
def test_a_brief_bar_speaks_only_of_what_takes_long(clock, capsys, seconds, lines):
    for _ in brief_bar(iter(range(3)), desc="importance", unit="part"):
        clock[0] += seconds
    written = capsys.readouterr().err.splitlines()
    assert len(written) == lines
    if lines:  # how many there will be is not known
        assert written == ["importance: part 2, 0:03 so far", "importance: part 3, took 0:04"]


def test_one_long_item_is_told_once(clock, capsys):
    for _ in progress_bar(range(1), desc="video", unit="frame", leave=False):
        clock[0] += 100
    assert capsys.readouterr().err == "video: frame 1 of 1, took 1:40\n"


def test_a_disabled_bar_says_nothing(clock, capsys):
    with progress_bar(total=3, disable=True) as bar:
        clock[0] += 99
        bar.update()
    assert capsys.readouterr().err == ""


def test_an_interrupted_bar_tells_how_far_it_came(clock, capsys):
    with pytest.raises(KeyboardInterrupt):
        for i in progress_bar(range(9), desc="video", unit="frame", leave=False):
            clock[0] += 40
            if i == 2:
                raise KeyboardInterrupt
    assert capsys.readouterr().err.splitlines()[-1] == "video: frame 2 of 9, took 2:00"


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for _ in progress_bar(range(3), desc="video"):
        pass
    assert "\r" in capsys.readouterr().err


def test_durations():
    assert [duration(seconds) for seconds in (0.4, 59.6, 605, 3600 * 26 + 62)] == ["0:00", "1:00", "10:05", "26:01:02"]


def test_a_run_writes_lines_to_its_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    assert run(run_nerf, *TINY, *SHORT, "--basedir", tmp_path) == 0
    err = capsys.readouterr().err
    assert "\r" not in err
    assert re.search(r"^float: step 25 of 30, PSNR [\d.]+ dB, [\d.]+k rays/s, 0:0\d left$", err, re.MULTILINE)
    assert re.search(r"^float: step 30 of 30, PSNR [\d.]+ dB, [\d.]+k rays/s, took 0:0\d$", err, re.MULTILINE)
    assert re.search(r"^float32: view \d+ of 10, ", err, re.MULTILINE)
    assert re.search(r"^video: frame \d of 2, ", err, re.MULTILINE)
