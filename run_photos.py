"""From photographs, or a video, to cameras, and on request to a small NeRF: a folder that --datadir takes.

python run_photos.py PHOTOS_OR_VIDEO [--out SCENE] [--train [--factor 8]]
"""

if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from load_colmap import camera_to_world, read_model
from photographs import video
from photographs.contact_sheet import draw_left_out
from photographs.gathering import Picture, gather, heif_formats, list_pictures
from photographs.model_plot import draw_model
from photographs.reasons import strongest_match, why_left_out
from photographs.structure import Settings, Structure, find_structure
from scenes.colmap_lenses import pycolmap_or_say
from utils.errors import BadInput, exit_cleanly
from utils.files import digest, saving, write_json
from utils.parser import Parser, positive, within
from utils.progress import duration

REPORT, MAP, SHEET = "photos.json", "cameras.png", "left_out.png"
LONG_SIDE = 320  # pixels that training on two CPU cores takes a few minutes for
LENSES = ("auto", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")


def make_parser() -> Parser:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("source", type=Path, metavar="PHOTOS_OR_VIDEO", help="a folder of pictures, folders in it too, or a video")
    add("--out", type=Path, help="folder of the scene (default: data/, and the name of what is given)")
    add("--frames", type=within(int, 3, 10_000), default=100, help="pictures that are taken of a video")
    add("--feature_size", type=within(int, 200, 10_000), default=1000, help="features: pixels of the longer side")
    add("--lens", default="auto", choices=LENSES, help="COLMAP's camera model (default: by the number of pictures)")
    add("--ordered", action="store_true", help="the pictures follow each other by name, as a video's do")
    add("--seed", type=within(int, 0, 2**31 - 1), default=0, help="the same seed finds the same cameras")
    add("--threads", type=within(int, 0, 1024), default=0, help="of the CPU (default: as many as there are cores)")
    add("--train", action="store_true", help="go on to an int8 NeRF, its video and strip, by run_nerf_qat.py")
    add("--config", default="configs/photos_cpu.txt", help="of --train")
    add(
        "--factor", type=positive(float), help=f"of --train: images are so many times smaller (default: {LONG_SIDE} px)"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    source = args.source.expanduser()
    out = args.out or Path("data") / name_of(source)
    pycolmap = pycolmap_or_say()
    settings = Settings(args.feature_size, args.lens, args.ordered or source.is_file(), args.seed, args.threads)

    # What was asked of the same pictures before is not done again; of others all begins anew.
    files = find_source(source, out)
    asked = {"source": str(source.resolve()), "frames": args.frames if source.is_file() else None}
    signs = [file_sign(path, source) for path in files]
    asked |= {"settings": {**vars(settings), "threads": None}, "files": digest(signs)}
    report = begin(out, asked)
    if report.get("done"):
        print(f"{out} is there already, of these pictures; remove it to begin anew")
        return go_on(args, out, report)

    started = time.perf_counter()
    if "pictures" not in report:
        images = out / "images"
        found = video.gather_frames(source, args.frames, images) if source.is_file() else gather(files, source, images)
        report["pictures"] = [picture.describe() for picture in found]
        write_json(out / REPORT, report)
    pictures = [Picture(**described) for described in report["pictures"]]
    usable = [picture for picture in pictures if picture.name]
    structure = find_structure(usable, out, settings)
    if not structure.registered:
        raise BadInput(no_cameras(source, usable, structure))
    seconds = time.perf_counter() - started
    report |= describe(pictures, structure, seconds, pycolmap.__version__)
    draw(out, source, report)
    write_json(out / REPORT, report | {"done": True})
    say_how_it_went(out, report)
    go_on(args, out, report)


def name_of(source: Path) -> str:
    """Of the scene: the video's or the folder's; pictures often lie in one that says no more than that they do."""
    path = source.resolve()
    if source.is_file():
        return path.stem
    return path.parent.name if path.name.lower() in ("images", "photos", "pictures", "input") else path.name


def find_source(source: Path, out: Path) -> list[Path]:
    """The files that the capture begins with. Raises BadInput where there are none."""
    if source.is_file():
        if source.suffix.lower() not in video.SUFFIXES:
            raise BadInput(f"{source}: is no video by its name ({' '.join(video.SUFFIXES)}); give a folder of pictures")
        return [source]
    if not source.is_dir():
        raise BadInput(f"{source}: no such folder or video")
    files = [path for path in list_pictures(source) if out.resolve() not in path.resolve().parents]
    if not files:
        videos = sorted(path.name for path in source.iterdir() if path.suffix.lower() in video.SUFFIXES)
        hint = f"; it has the video {videos[0]}, give that" if videos else "; give a folder of JPEG, PNG or HEIC files"
        raise BadInput(f"{source}: holds no pictures{hint}")
    heif_formats(files)
    return files


def file_sign(path: Path, source: Path) -> list:
    """What changes when a file does, however its folder is named."""
    state = path.stat()
    return [str(path.relative_to(source)), state.st_size, state.st_mtime_ns]


def begin(out: Path, asked: dict) -> dict:
    """What `photos.json` in `out` says of the same pictures and settings; where it is of others, they are removed.
    Raises BadInput where the folder holds something that this command did not write."""
    path = out / REPORT
    if path.is_file():
        try:
            report = json.loads(path.read_text())
            if report.get("asked") == asked:
                return report
            print(f"{out}: was made of other pictures, or with other flags; begun anew")
        except (ValueError, AttributeError):
            pass
    elif out.is_dir() and any(out.iterdir()):
        raise BadInput(f"{out}: is not empty, and no {REPORT} says that this command wrote it; give another --out")
    with saving(out):
        for folder in ("images", "sparse"):
            shutil.rmtree(out / folder, ignore_errors=True)
        for file in ("database.db", MAP, SHEET):
            (out / file).unlink(missing_ok=True)
    report = {"asked": asked}
    write_json(path, report)
    return report


def no_cameras(source: Path, usable: list[Picture], structure: Structure) -> str:
    most = max(structure.matches.values(), default=0)
    sharpest = max(picture.sharpness for picture in usable)
    if most < 15:
        seen = f"no two of {len(usable)} pictures show enough of the same (sharpness {sharpest:.2g} at most)"
        return f"{source}: {seen}: they are blurred, of different things, or of bare walls; take them closer together"
    return (
        f"{source}: {len(usable)} pictures match, but no camera motion explains them; walk sideways between pictures "
        "instead of turning on the spot, and see that nothing moves"
    )


def describe(pictures: list[Picture], structure: Structure, seconds: float, version: str) -> dict:
    """What `photos.json` says of what came out."""
    rows = []
    for picture in pictures:
        row = picture.describe()
        if picture.name:
            row["registered"] = picture.name in structure.registered
            row["features"] = structure.features.get(picture.name, 0)
            row["matched_pictures"] = sum(picture.name in pair for pair in structure.matches)
            row["strongest_match"] = strongest_match(picture.name, structure, structure.registered)
            row["left_out"] = "" if row["registered"] else why_left_out(picture, pictures, structure)
        rows.append(row)
    return {
        "pictures": rows,
        "registered": len(structure.registered),
        "of": len(pictures),
        "models": [len(model) for model in structure.models],
        "way": structure.way,
        "points": structure.points,
        "reprojection_error_pixels": structure.error,
        "seconds": round(seconds, 1),
        "pycolmap": version,
    }


def draw(out: Path, source: Path, report: dict) -> None:
    """`cameras.png`: where the pictures were taken, and the points; `left_out.png`: those without a camera."""
    model = read_model(out / "sparse" / "0")
    poses = np.stack([camera_to_world(picture.w2c) for picture in model.pictures])
    points = np.array(list(model.points.values())).reshape(-1, 3)
    draw_model(poses, points, out / MAP, f"{report['registered']} of {report['of']} pictures")
    if any(row["left_out"] for row in report["pictures"]):
        report["on_sheet"] = draw_left_out(report["pictures"], out / "images", source, out / SHEET)


def say_how_it_went(out: Path, report: dict) -> None:
    left_out = [row for row in report["pictures"] if row["left_out"]]
    for row in left_out:
        print(f"left out: {row['source']}: {row['left_out']}")
    if left_out:
        first = f"the first {report['on_sheet']}" if report["on_sheet"] < len(left_out) else "they"
        print(f"{first} are on one sheet: {out / SHEET}")
    others = report["models"][1:]
    if others:
        sizes = ", ".join(map(str, others))
        print(f"note: {len(others)} smaller models, of {sizes} pictures, fit to nothing and are not kept")
    print(
        f"{report['registered']} of {report['of']} pictures have a camera ({report['way']} matching), "
        f"{report['points']} points, {report['reprojection_error_pixels']:.2f} pixels off on average, "
        f"after {duration(report['seconds'])}: {out / MAP}"
    )


def go_on(args: argparse.Namespace, out: Path, report: dict) -> None:
    """Trains, or says how to."""
    used = [row for row in report["pictures"] if row.get("registered")]
    side = max(max(row["height"], row["width"]) for row in used)
    factor = args.factor or max(1.0, round(side / LONG_SIDE))
    flags = ["--config", args.config, "--datadir", str(out), "--factor", f"{factor:g}", "--expname", out.name]
    if not args.train:
        print(f"next: python run_nerf_qat.py {' '.join(flags)}")
        return
    import run_nerf_qat

    run_nerf_qat.main([*flags, *(["--threads", str(args.threads)] if args.threads else [])])


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
