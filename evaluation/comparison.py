"""Finished runs side by side: rows from their metrics.json, what may be compared, which are best."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from evaluation.tables import Column
from utils.errors import BadInput

METRICS = "metrics.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """One model of one run, as `metrics.json` has it; None is what was not measured.

    psnr in dB; bytes of the file that renders alone; ratio: to the float32 file of the same run;
    minutes: training of the whole run, all its models together; file: where the model should lie.
    setting: what must be the same for two rows to be compared, in words, by what it is.
    """

    run: str
    model: str
    psnr: float | None
    ssim: float | None
    lpips: float | None
    bytes: int
    ratio: float | None
    seconds_per_frame: float | None
    minutes: float | None
    device: str | None
    file: Path
    setting: dict[str, str]

    @property
    def mb(self) -> float:
        """Megabytes of a million bytes."""
        return self.bytes / 1e6

    @property
    def mib(self) -> float:
        """Mebibytes, 2^20 bytes: what file managers call MB."""
        return self.bytes / 2**20


COLUMNS = (
    Column("run", "run"),
    Column("model", "model"),
    Column("psnr", "PSNR dB", 2),
    Column("ssim", "SSIM", 4),
    Column("lpips", "LPIPS", 4),
    Column("bytes", "bytes", 0),
    Column("mb", "MB", 3),
    Column("mib", "MiB", 3),
    Column("ratio", "of float", 3),
    Column("seconds_per_frame", "s/frame", 3),
    Column("minutes", "train min", 1),
    Column("device", "device"),
)


# ---------------------------------------------------------------------------------- reading runs


def collect_rows(places: Sequence[Path]) -> list[Row]:
    """A row for each model that has a file, of every run in or below `places`, in the order given.

    A run is called by its folder, with as many folders before it as tell it from the others.
    Raises BadInput where a place is no folder, holds no run, or a `metrics.json` is malformed.
    """
    folders = find_runs(places)
    shared = Path(os.path.commonpath([folder.parent for folder in folders]))
    rows = [row for folder in folders for row in read_run(folder, folder.relative_to(shared).as_posix())]
    if not rows:
        raise BadInput(f"{places[0]}: no model in its {METRICS} has a file; there is nothing to compare")
    return rows


def find_runs(places: Sequence[Path]) -> list[Path]:
    """The folders in or below `places` that hold a `metrics.json`, each once, as absolute paths."""
    found: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            raise BadInput(f"{place}: {'is a file' if place.exists() else 'no such folder'}, expected a run's folder")
        here = [path.parent.resolve() for path in sorted(place.rglob(METRICS)) if path.is_file()]
        if not here:
            raise BadInput(f"{place}: no {METRICS} in it or below; a run writes that when it has finished")
        found |= dict.fromkeys(here)
    return list(found)


def read_run(folder: Path, name: str, metrics: str = METRICS) -> list[Row]:
    """The rows of a run, called `name`; `metrics_file` is the file in its folder to read.

    Raises BadInput where that file is not what `metrics_file.write_metrics` writes.
    """
    path = folder / metrics
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error})") from error
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, dict) or not all(isinstance(entry, dict) for entry in models.values()):
        raise BadInput(f"{path}: expected an object with models by name; run the training again to write it anew")
    train = content.get("train") or {}
    if not isinstance(train, dict):
        raise BadInput(f"{path}: train is {train!r:.40}, expected an object")
    seconds = _number(path, "train", train, "seconds")
    device = content.get("device")
    sizes = {model: _size(path, model, entry) for model, entry in models.items() if entry.get("file") is not None}
    reference, scene = sizes.get("float32"), _scene(folder)
    rows = []
    for model, size in sizes.items():
        entry = models[model]
        if "psnr" not in entry:
            raise BadInput(f"{path}: {model} has no psnr")
        measured = {key: _number(path, model, entry, key) for key in ("psnr", "ssim", "lpips", "seconds_per_frame")}
        rows.append(
            Row(
                run=_printable(name),
                model=_printable(model),
                bytes=size,
                ratio=size / reference if reference else None,
                minutes=None if seconds is None else seconds / 60,
                device=None if device is None else _printable(device),
                file=folder / entry["file"],
                setting=scene | _pictures(entry),
                **measured,
            )
        )
    return rows


def _number(path: Path, owner: str, entry: dict, key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    # A bool is an int to Python, and an int may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise BadInput(f"{path}: {owner} has {key} {value!r:.40}, expected a number or null")
    return float(value)


def _size(path: Path, model: str, entry: dict) -> int:
    size, file = entry.get("bytes"), entry["file"]
    if not isinstance(file, str):
        raise BadInput(f"{path}: {model} has file {file!r:.40}, expected a file's name")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < 2**63:
        raise BadInput(f"{path}: {model} has bytes {size!r:.40}, expected the size of {file}")
    return size


def _printable(word: object) -> str:
    """Names from files must not move the terminal's cursor or break a table's line."""
    return "".join(character if character.isprintable() else "?" for character in str(word))


def _scene(folder: Path) -> dict[str, str]:
    """What args.txt says of the scene, if it is there; a scene is known by its folder's name anywhere."""
    path = folder / "args.txt"
    try:
        lines = path.read_text().splitlines() if path.is_file() else []  # a device would never end
    except (OSError, ValueError):
        return {}
    args = dict(line.split(" = ", 1) for line in lines if " = " in line)
    if "datadir" not in args:
        return {}
    datadir = args["datadir"]
    return {
        "scene": "procedural" if datadir == "None" else _printable(Path(datadir).name),
        "background": "white" if args.get("white_bkgd") == "True" else "black",
    }


def _pictures(entry: dict) -> dict[str, str]:
    """How many test views were measured, which if it says so, and how large."""
    setting = {}
    count, per_view = entry.get("views"), entry.get("per_view")
    if count is not None:
        setting["views"] = _printable(count)
    if isinstance(per_view, list) and per_view and all(isinstance(view, dict) for view in per_view):
        names = [_printable(view.get("view")) for view in per_view]
        setting["views"] = f"{len(names)} from {names[0]} to {names[-1]}"
    if entry.get("width") is not None and entry.get("height") is not None:
        setting["picture"] = _printable(f"{entry['width']}x{entry['height']}")
    return setting


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the table should know: where rows are not comparable, and files that have changed."""
    remarks = []
    differences = []
    for what in dict.fromkeys(key for row in rows for key in row.setting):
        runs: dict[str, dict[str, None]] = {}
        for row in rows:
            if what in row.setting:
                runs.setdefault(row.setting[what], {})[row.run] = None
        if len(runs) > 1:
            values = [
                f"{value} ({', '.join(list(names)[:3])}{', ...' * (len(names) > 3)})" for value, names in runs.items()
            ]
            differences.append(f"{what} {', '.join(values)}")
    if differences:
        remarks.append(f"rows are not all comparable: {'; '.join(differences)}")
    for row in rows:
        with contextlib.suppress(OSError, ValueError):  # a file that is not there has not changed
            size = os.path.getsize(row.file)
            if size != row.bytes:
                remarks.append(f"{row.run}: {row.file.name} has {size} bytes now, {row.bytes} when it was measured")
    return remarks


# ---------------------------------------------------------------------- quality against size


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Rows than which no other is both as small and as good, and better in one; smallest first.

    Equal rows are on it together; rows without PSNR are not.
    """
    front: list[Row] = []
    measured = [row for row in rows if row.psnr is not None]
    for row in sorted(measured, key=lambda row: (row.bytes, -row.psnr)):
        last = front[-1] if front else None
        if last is None or row.psnr > last.psnr or (row.psnr, row.bytes) == (last.psnr, last.bytes):
            front.append(row)
    return front


# ----------------------------------------------------------------- a data set, scene by scene


@dataclasses.dataclass(frozen=True)
class SceneRow:
    """A scene's float32 model (raw) beside its compressed one; units as in `Row`."""

    scene: str
    model: str | None
    raw_psnr: float | None
    psnr: float | None
    raw_ssim: float | None
    ssim: float | None
    raw_lpips: float | None
    lpips: float | None
    raw_bytes: float | None
    bytes: float | None
    minutes: float | None


SCENE_COLUMNS = (
    Column("scene", "scene"),
    Column("model", "compressed"),
    Column("raw_psnr", "raw PSNR dB", 2),
    Column("psnr", "PSNR dB", 2),
    Column("raw_ssim", "raw SSIM", 4),
    Column("ssim", "SSIM", 4),
    Column("raw_lpips", "raw LPIPS", 4),
    Column("lpips", "LPIPS", 4),
    Column("raw_bytes", "raw bytes", 0),
    Column("bytes", "bytes", 0),
    Column("minutes", "train min", 1),
)


def scene_row(scene: str, rows: Sequence[Row]) -> SceneRow:
    """Of a run's models the one called float32, and the last other: the one that training was for."""
    raw = next((row for row in rows if row.model == "float32"), None)
    small = next((row for row in reversed(rows) if row.model != "float32"), None)
    pairs = {}
    for key in ("psnr", "ssim", "lpips", "bytes"):
        pairs[f"raw_{key}"] = getattr(raw, key, None)
        pairs[key] = getattr(small, key, None)
    return SceneRow(scene, small.model if small else None, minutes=rows[0].minutes if rows else None, **pairs)


def mean_row(rows: Sequence[SceneRow]) -> SceneRow:
    """The mean over scenes; None, not the mean of fewer, where a scene has no value."""
    means = {}
    for column in SCENE_COLUMNS[2:]:
        values = [getattr(row, column.key) for row in rows]
        means[column.key] = None if None in values else math.fsum(values) / len(values)
    models = {row.model for row in rows}
    return SceneRow(f"mean of {len(rows)}", models.pop() if len(models) == 1 else None, **means)
