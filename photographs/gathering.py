"""What a capture begins with: the pictures of a folder or the frames of a video, looked at and put in one folder.

Pictures stay as they are stored, unturned: structure from motion counts their pixels so, and so do readers of what it
writes. Formats that few programs read become JPEG.
"""

import io
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from scenes.file_names import natural_key
from scenes.images import decode
from utils.errors import BadInput
from utils.files import atomic_write, saving
from utils.progress import brief_bar

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif")
KEPT_AS_THEY_ARE = (".jpg", ".jpeg", ".png")
LOOKED_AT = 800  # pixels of the longer side, at which sharpness is measured
THUMBNAIL = 32  # pixels a side
SAME = 4  # of 255 levels, by which thumbnails of one picture differ at most, however it was saved
JPEG_QUALITY = 95
FEWEST = 3  # pictures that can become a scene
CAMERA_TAGS = {"make": 271, "model": 272}
FOCAL_TAGS = {"focal": 37386, "focal35": 41989}
EXIF_BLOCK = 0x8769


@dataclass
class Picture:
    """One picture of a capture. source: where it was. name: in `images`. camera: what took it, as far as the file says,
    and its size. sharpness: how much of the contrast is between neighbouring pixels; of one capture's pictures those
    with far less are blurred. contrast: standard deviation of its grey levels, of 255. left_out: why it is not tried;
    "": it is."""

    source: str
    name: str = ""
    height: int = 0
    width: int = 0
    camera: str = ""
    sharpness: float = 0.0
    contrast: float = 0.0
    left_out: str = ""
    thumbnail: np.ndarray | None = field(default=None, repr=False)

    def describe(self) -> dict:
        described = asdict(self)
        del described["thumbnail"]
        return described


def list_pictures(folder: Path) -> list[Path]:
    """The picture files of a folder and of those in it, as people count, without hidden ones."""
    files = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    inside = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return sorted(inside, key=lambda path: natural_key(str(path.relative_to(folder))))


def look_at(path: Path, source: str) -> Picture:
    """A picture's file, read. Of one that cannot be `left_out` says why."""
    picture = Picture(source)

    def read() -> None:
        with Image.open(path) as image:
            picture.height, picture.width = image.height, image.width
            picture.camera = camera_of(image)
            image.draft("L", (LOOKED_AT, LOOKED_AT))  # a JPEG need not be decoded in full
            look_at_pixels(picture, np.asarray(image.convert("L")))

    try:
        decode(path, read)
    except BadInput as error:
        picture.left_out = f"not readable: {str(error).partition('(')[2].rpartition(')')[0] or error}"
    return picture


def look_at_pixels(picture: Picture, grey: np.ndarray) -> None:
    """Sets what is told by its pixels, uint8 `[H, W]`."""
    scale = min(1.0, LOOKED_AT / max(grey.shape))
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    picture.thumbnail = cv2.resize(small, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    variance = float(small.astype(np.float64).var())
    edges = cv2.Laplacian(small, cv2.CV_64F)
    picture.sharpness = round(float(edges.var()) / max(variance, 1.0), 5)
    picture.contrast = round(variance**0.5, 2)


def camera_of(image: Image.Image) -> str:
    """What took a picture, from its EXIF tags, and its size as stored: of one value is one lens."""
    tags = image.getexif()
    lens = tags.get_ifd(EXIF_BLOCK)
    said = [str(tags.get(tag, "")).strip("\0 ") for tag in CAMERA_TAGS.values()]
    said += [str(lens.get(tag, "")) for tag in FOCAL_TAGS.values()]
    return " ".join(part for part in (*said, f"{image.width}x{image.height}") if part)


def gather(files: list[Path], root: Path, images: Path) -> list[Picture]:
    """Looks at the picture files below `root`, and puts those that can be read in `images`. Raises BadInput where too
    few are left to make a scene of, SaveError where they cannot be written."""
    pictures: list[Picture] = []
    for path in brief_bar(files, desc="pictures", unit="picture"):
        picture = look_at(path, str(path.relative_to(root)))
        pictures.append(picture)
        if not picture.left_out and not same_as_before(picture, pictures):
            picture.name = free_name(picture.source, {other.name for other in pictures})
            place(path, images / picture.name)
    check_enough(pictures, str(root))
    return pictures


def same_as_before(picture: Picture, pictures: list[Picture]) -> bool:
    """Whether one of the pictures before it shows just the same; then `left_out` says which."""
    for other in pictures:
        if other is picture or other.left_out or (other.height, other.width) != (picture.height, picture.width):
            continue
        if np.abs(other.thumbnail.astype(int) - picture.thumbnail).max() <= SAME and alike(picture, other):
            picture.left_out = f"the same picture as {other.source}"
            return True
    return False


def alike(one: Picture, other: Picture) -> bool:
    return abs(one.sharpness - other.sharpness) <= 0.05 * max(one.sharpness, other.sharpness)


def free_name(source: str, taken: set[str]) -> str:
    """A name for `images`: the source's, with what lists of pairs cannot hold replaced."""
    path = Path(re.sub(r"[^\w./-]", "_", source))
    path = path if path.suffix.lower() in KEPT_AS_THEY_ARE else path.with_suffix(".jpg")
    name, count = str(path), 1
    while name in taken:
        count += 1
        name = str(path.with_stem(f"{path.stem}_{count}"))
    return name


def place(source: Path, target: Path) -> None:
    """A picture's file, as it is, or as a JPEG that says of its camera what it said."""
    if source.suffix.lower() in KEPT_AS_THEY_ARE:
        with saving(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        return
    with Image.open(source) as image:
        write_jpeg(target, image.convert("RGB"), image.getexif())


def write_jpeg(target: Path, image: Image.Image, exif: Image.Exif | None = None) -> None:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY, **({"exif": exif} if exif else {}))
    atomic_write(target, stream.getvalue())


def check_enough(pictures: list[Picture], where: str) -> None:
    usable = [picture for picture in pictures if picture.name]
    if len(usable) >= FEWEST:
        return
    unread = [picture for picture in pictures if picture.left_out.startswith("not readable")]
    same = len(pictures) - len(usable) - len(unread)
    why = "; ".join(
        part
        for part in (
            f"{len(pictures)} files",
            f"{len(unread)} cannot be read, the first is {unread[0].source}" if unread else "",
            f"{same} show just the same as others" if same else "",
        )
        if part
    )
    raise BadInput(
        f"{where}: {len(usable)} usable pictures ({why}); take 30 or more, from all round, each from another place"
    )


def heif_formats(files: list[Path]) -> None:
    """Lets Pillow read HEIC, where there are any. Raises BadInput where it cannot be taught to."""
    heic = [path for path in files if path.suffix.lower() in (".heic", ".heif")]
    if not heic:
        return
    try:
        import pillow_heif
    except ImportError as error:
        raise BadInput(f"{heic[0]}: HEIC needs pillow-heif: pip install -r requirements-photos.txt") from error
    pillow_heif.register_heif_opener()
