"""What a capture begins with: which pictures are taken, under which names, and what is said of the others."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from photographs.gathering import free_name, gather, list_pictures, look_at
from utils.errors import BadInput


def noise(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A picture with detail, uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save(path, seed: int, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed)).save(path, **options)


def test_pictures_of_all_folders_are_listed_as_people_count(tmp_path):
    for name in ("b/2.png", "b/10.JPG", "a1.jpeg", ".hidden/3.png", "b/.4.png", "notes.txt"):
        save(tmp_path / name, 0, format="PNG")
    assert [str(path.relative_to(tmp_path)) for path in list_pictures(tmp_path)] == ["a1.jpeg", "b/2.png", "b/10.JPG"]


def test_pictures_are_put_in_one_folder_as_they_are(tmp_path):
    root, images = tmp_path / "in", tmp_path / "images"
    for seed, name in enumerate(("day one/a b.jpg", "day one/a_b.jpg", "c.png")):
        save(root / name, seed)
    pictures = gather(list_pictures(root), root, images)
    assert [picture.name for picture in pictures] == ["c.png", "day_one/a_b.jpg", "day_one/a_b_2.jpg"]
    assert (images / "day_one" / "a_b.jpg").read_bytes() == (root / "day one" / "a b.jpg").read_bytes()
    assert all((picture.height, picture.width) == (60, 80) and not picture.left_out for picture in pictures)
    assert not any(character.isspace() for picture in pictures for character in picture.name)


def test_names_stay_apart():
    assert free_name("x.heic", set()) == "x.jpg"
    assert free_name("x.heic", {"x.jpg", "x_2.jpg"}) == "x_3.jpg"


def test_unreadable_and_equal_pictures_are_left_out_and_said(tmp_path):
    for seed in range(4):
        save(tmp_path / f"{seed}.png", seed)
    save(tmp_path / "again.jpg", 2, quality=98, subsampling=0)  # the same, saved anew
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "4.jpg").write_bytes(b"")
    pictures = {picture.source: picture for picture in gather(list_pictures(tmp_path), tmp_path, tmp_path / "images")}
    assert pictures["again.jpg"].left_out == "the same picture as 2.png"
    assert pictures["3.png"].left_out.startswith("not readable") and "0 bytes" in pictures["4.jpg"].left_out
    assert [name for name, picture in pictures.items() if not picture.left_out] == ["0.png", "1.png", "2.png"]
    assert len(list((tmp_path / "images").iterdir())) == 3


@pytest.mark.parametrize("names", [["1.png"], ["1.png", "1b.png", "1c.png", "1d.png"], ["1.png", "2.png"]])
def test_too_few_are_refused_with_what_was_wrong(tmp_path, names):
    for name in names:
        save(tmp_path / name, int(name[0]))
    with pytest.raises(BadInput, match=rf"{len({name[0] for name in names})} usable pictures.*30 or more") as raised:
        gather(list_pictures(tmp_path), tmp_path, tmp_path / "images")
    assert ("show just the same" in str(raised.value)) == (len(names) == 4)


def test_a_blurred_picture_is_less_sharp_whatever_its_contrast(tmp_path):
    sharp = noise(0, 240, 320)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 3)
    for name, pixels in {"sharp": sharp, "blurred": blurred, "dim": sharp // 3}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    value = {name: look_at(tmp_path / f"{name}.png", name).sharpness for name in ("sharp", "blurred", "dim")}
    assert value["blurred"] < 0.2 * value["sharp"]
    assert value["dim"] == pytest.approx(value["sharp"], rel=0.1)


def with_exif(path, **tags):
    exif = Image.Exif()
    exif[0x0112] = tags.get("orientation", 1)
    exif[271], exif[272] = "Maker", tags.get("model", "One")
    exif.get_ifd(0x8769)[41989] = tags.get("focal", 26)
    save(path, tags.get("seed", 0), exif=exif)


def test_cameras_are_told_apart_by_what_took_them_and_turned_by_no_tag(tmp_path):
    with_exif(tmp_path / "a.jpg")
    with_exif(tmp_path / "b.jpg", orientation=6)
    with_exif(tmp_path / "c.jpg", model="Two")
    with_exif(tmp_path / "d.jpg", focal=52)
    a, b, c, d = (look_at(tmp_path / f"{name}.jpg", name) for name in "abcd")
    assert a.camera == b.camera and (b.height, b.width) == (60, 80)
    assert len({a.camera, c.camera, d.camera}) == 3


@pytest.mark.parametrize("suffix", ["webp", "tiff", "heic"])
def test_formats_that_few_read_become_jpeg_and_keep_what_they_say(tmp_path, suffix):
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    for seed in range(3):
        with_exif(tmp_path / f"{seed}.{suffix}", seed=seed, focal=35)
    pictures = gather(list_pictures(tmp_path), tmp_path, tmp_path / "images")
    for seed, picture in enumerate(pictures):
        content = (tmp_path / "images" / picture.name).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "JPEG"
            if suffix != "tiff":  # as which Pillow writes no such block
                assert image.getexif().get_ifd(0x8769)[41989] == 35
            apart = np.asarray(image).astype(float) - noise(seed)
        assert np.sqrt((apart.mean(-1) ** 2).mean()) < 12  # two lossy formats, which halve colours' detail
