"""Frames of a video: as many as asked for, evenly apart, the sharp ones."""

import cv2
import imageio.v2 as imageio
import numpy as np
import pytest
from test_gathering import noise

from photographs.video import choose, gather_frames
from utils.errors import BadInput

av = pytest.importorskip("av")


def test_of_each_part_the_sharpest_in_its_middle_is_chosen():
    sharp = np.ones(40)
    sharp[[6, 15, 29]] = 2
    sharp[30] = 9  # at the edge of its part
    assert choose(sharp, 4)[:2] == [6, 15] and choose(sharp, 4)[2] == 22
    assert choose(sharp, 40) == list(range(40)) and choose(sharp, 100) == list(range(40))
    chosen = choose(np.random.default_rng(0).random(1000), 50)
    assert len(chosen) == 50 and np.diff(chosen).min() >= 6 and np.diff(chosen).max() <= 34


def write_video(path, frames):
    with imageio.get_writer(path, fps=10, macro_block_size=1, quality=9) as writer:
        for frame in frames:
            writer.append_data(frame)


def test_frames_are_written_in_order_and_blurred_ones_passed_over(tmp_path):
    big = noise(0, 96, 400)
    frames = [np.ascontiguousarray(big[:, 4 * i : 4 * i + 128]) for i in range(60)]
    for i in range(0, 60, 2):
        frames[i] = cv2.GaussianBlur(frames[i], (0, 0), 3)
    write_video(tmp_path / "walk.mp4", frames)
    pictures = gather_frames(tmp_path / "walk.mp4", 10, tmp_path / "images")
    numbers = [int(picture.name[6:12]) for picture in pictures]
    assert len(numbers) == 10 and numbers == sorted(numbers) and all(number % 2 for number in numbers)
    for picture, number in zip(pictures, numbers, strict=True):
        written = imageio.imread(tmp_path / "images" / picture.name).astype(float)
        assert written.shape == (96, 128, 3) and (picture.height, picture.width) == (96, 128)
        assert np.abs(written - frames[number]).mean() < 10


def test_what_is_no_video_is_said(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(BadInput, match=r"a\.mp4: cannot be decoded"):
        gather_frames(tmp_path / "a.mp4", 10, tmp_path / "images")
