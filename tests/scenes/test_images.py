"""Pictures of every mode that Pillow reads, masks of every depth, and the EXIF tag that turns photographs."""

import math

import numpy as np
import pytest
from PIL import Image

from scenes.exif import heeded_orientations, upright
from scenes.images import hidden_share, read_image, without_idle_alpha
from scenes.masks import read_mask
from utils.errors import BadInput

RGB = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
TALL = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(3, 2, 3) * 10


def save(path, pixels, mode=None, **options):
    Image.fromarray(pixels, mode).save(path, **options) if mode else Image.fromarray(pixels).save(path, **options)
    return path


# ---------------------------------------------------------------------------------- modes


@pytest.mark.parametrize(
    "mode, kind, error", [("CMYK", "TIFF", 0), ("CMYK", "JPEG", 40), ("YCbCr", "JPEG", 40), ("LAB", "TIFF", 40)]
)
def test_other_colours_become_rgb(tmp_path, mode, kind, error):
    """Four inks are no colours with alpha."""
    flat = np.full((8, 8, 3), [200, 120, 40], np.uint8)
    image = Image.fromarray(flat)
    if mode == "LAB":
        pixels = Image.merge("LAB", [Image.new("L", (8, 8), level) for level in (143, 154, 184)])  # about that orange
    else:
        pixels = image.convert(mode)
    pixels.save(tmp_path / "a.png", kind)
    found = read_image(tmp_path / "a.png")
    assert found.shape == (8, 8, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - flat).max() <= error


def test_palettes_and_transparent_colours(tmp_path):
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").tolist() == np.asarray(palette.convert("RGB")).tolist()
    palette.save(tmp_path / "t.png", transparency=0)
    assert (read_image(tmp_path / "t.png")[..., 3] == np.where(np.asarray(palette) == 0, 0, 255)).all()
    grey = save(tmp_path / "g.png", RGB[..., 0], transparency=int(RGB[0, 0, 0]))
    assert read_image(grey)[0, 0].tolist() == [*[RGB[0, 0, 0]] * 3, 0]
    colour = save(tmp_path / "c.png", RGB, transparency=tuple(RGB[0, 0].tolist()))
    assert read_image(colour)[0, :2, 3].tolist() == [0, 255]


def test_one_bit_floats_and_integers(tmp_path):
    save(tmp_path / "1.png", RGB[..., 0] > 99)
    assert read_image(tmp_path / "1.png")[..., 0].tolist() == np.where(RGB[..., 0] > 99, 255, 0).tolist()
    levels = np.linspace(0, 1, 6, dtype=np.float32)[None]
    save(tmp_path / "f.png", levels, format="TIFF")
    assert read_image(tmp_path / "f.png")[0, :, 0].tolist() == [0, 51, 102, 153, 204, 255]
    save(tmp_path / "i.png", np.array([[0, 257, 65535]], np.int32), format="TIFF")
    assert read_image(tmp_path / "i.png")[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    "pixels", [np.float32([[0, 2]]), np.float32([[math.nan]]), np.int32([[-1]]), np.int32([[65536]])]
)
def test_numbers_that_mean_no_level_are_refused(tmp_path, pixels):
    save(tmp_path / "a.png", pixels, format="TIFF")
    with pytest.raises(BadInput, match="a.png.*expected 0 to"):
        read_image(tmp_path / "a.png")


def test_alpha_is_what_it_hides():
    rgba = np.full((3, 2, 2, 4), 255, np.uint8)
    images, notes = without_idle_alpha(rgba, hidden_share(rgba))
    assert images.shape == (3, 2, 2, 3) and len(notes) == 1
    rgba[1, 0, 0, 3] = 0
    assert hidden_share(rgba) == pytest.approx(1 / 12)
    assert without_idle_alpha(rgba, hidden_share(rgba)) == (rgba, [])
    assert hidden_share(rgba, 11) == pytest.approx(0)  # if that one is no pixel of any image


# ---------------------------------------------------------------------------------- masks

KEPT = np.array([[True, False], [True, True], [False, True]])


@pytest.mark.parametrize("level", [1, 2, 127, 128, 255])
def test_whatever_is_not_black_is_kept(tmp_path, level):
    mask = np.where(KEPT, level, 0)
    forms = {
        "L": mask.astype(np.uint8),
        "I;16": mask.astype(np.uint16),
        "I": mask.astype(np.int32),
        "F": (mask / 255).astype(np.float32),
        "RGB": np.stack([mask * 0, mask * 0, mask], -1).astype(np.uint8),
        "LA": np.stack([mask, mask * 0 + 255], -1).astype(np.uint8),
        "RGBA": np.stack([mask * 0 + 255] * 3 + [mask], -1).astype(np.uint8),
        "1": KEPT,
    }
    for mode, pixels in forms.items():
        path = save(tmp_path / "mask.png", pixels, format="TIFF" if mode in ("I", "F") else "PNG")
        assert Image.open(path).mode == mode
        assert read_mask(path, (3, 2)).tolist() == KEPT.tolist(), mode


def test_a_palettes_colours_count_and_a_jpegs_black_is_not_quite_black(tmp_path):
    palette = Image.fromarray(np.where(KEPT, 1, 0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", (3, 2)).tolist() == KEPT.tolist()
    large = np.kron(KEPT, np.ones((9, 9))).astype(np.uint8)
    Image.fromarray(200 * large).save(tmp_path / "m.jpg", quality=60)
    assert ((np.asarray(Image.open(tmp_path / "m.jpg")) > 0) != large.astype(bool)).any()
    assert read_mask(tmp_path / "m.jpg", (27, 18)).tolist() == large.astype(bool).tolist()


def test_a_mask_that_is_wrong_is_named(tmp_path):
    save(tmp_path / "mask.png", KEPT)
    with pytest.raises(BadInput, match="mask.png: mask is 2x3, its image 3x2"):
        read_mask(tmp_path / "mask.png", (2, 3))
    (tmp_path / "mask.png").write_bytes(b"x")
    with pytest.raises(BadInput, match="mask.png: not a readable image"):
        read_mask(tmp_path / "mask.png", (2, 3))


# ----------------------------------------------------------------------------------- EXIF


def tagged(path, orientation, pixels=TALL, kind="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, pixels, format=kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_is_what_viewers_do(tmp_path, orientation):
    from PIL import ImageOps

    path = tagged(tmp_path / "a.png", orientation, kind="PNG")
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert upright(read_image(path), orientation).tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "tag, lens, heeded, doubt",
    [
        (1, (3, 2), 1, False),
        (6, (2, 3), 6, False),  # the lens fits the turned picture alone
        (5, (200, 300), 5, False),  # at another size
        (6, (3, 2), 1, False),  # the stored one alone
        (6, None, 1, True),
        (3, (3, 2), 1, True),  # either
        (3, None, 1, True),
        (8, (9, 2), 1, False),  # neither: refused for its aspect by whoever asked
        (77, (3, 2), 1, False),
    ],
)
def test_the_tag_is_heeded_where_the_lens_proves_it(tmp_path, kind, tag, lens, heeded, doubt):
    # A pixel's rounding is a large share of so small a picture: a larger one of the same aspect.
    path = tagged(tmp_path / "a.jpg", tag, np.zeros((300, 200, 3), np.uint8), kind)
    orientations, sizes, notes = heeded_orientations([path], [lens], "here")
    assert orientations == [heeded] and sizes == [(200, 300) if heeded > 4 else (300, 200)]
    assert [("here: 1 photographs" in note and "auto-orient" in note) for note in notes] == [True] * doubt
