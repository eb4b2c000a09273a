"""Sizes by measured times: a made-up renderer that takes so long for so many pixels."""

import pytest

from viewer.pace import LEAST, Pace, finer


@pytest.mark.parametrize("rate", [3e4, 2e6])
@pytest.mark.parametrize("overhead", [0.0, 0.02])
def test_pictures_of_a_moving_camera_come_to_take_what_they_may(rate, overhead):
    pace, longest = Pace(), 4096
    for _ in range(40):
        side = pace.moving(longest, longest**2)
        seconds = overhead + side**2 / rate
        pace.took(int(side**2), seconds)
    assert seconds == pytest.approx(pace.seconds, rel=0.05)


def test_never_finer_than_the_finest_nor_less_than_something():
    pace = Pace()
    for _ in range(20):
        pace.took(10**9, 0.01)
    assert pace.moving(512, 512 * 300) == 512
    for _ in range(40):
        pace.took(100, 10.0)
    assert pace.moving(512, 512 * 512) ** 2 == pytest.approx(LEAST)


def test_a_still_camera_gets_finer_until_all_is_there():
    sides = [40.0]
    while sides[-1] < 512:
        sides.append(finer(sides[-1], 512))
    assert sides == [40, 80, 160, 320, 512]  # and not 640, nor 512 after 500
    assert finer(400, 512) == 512 and finer(512, 512) == 512
