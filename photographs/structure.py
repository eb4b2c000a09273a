"""Structure from motion by pycolmap: features, what of them is the same in two pictures, cameras and points.

What is done is in a database beside the pictures, and is not done again. Of several models the largest is kept.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from photographs.gathering import Picture
from photographs.pairs import Pair, all_pairs, following, looking_alike
from scenes.colmap_lenses import pycolmap_or_say
from utils.errors import BadInput, first_line
from utils.files import saving
from utils.progress import progress_bar, say

MANY_OF_ONE_CAMERA = 30  # pictures, from which on a lens with four coefficients is found, not with one
MOST_EXHAUSTIVE = 150  # pictures of which all pairs are compared first
ENOUGH_REGISTERED = 0.8  # of the pictures, with less the next way is tried
FEATURES_AT_ONCE, PAIRS_AT_ONCE = 4, 100  # between two looks of the bar


@dataclass(frozen=True)
class Settings:
    """feature_size: pixels of the longer side at which features are looked for. model: of lenses, COLMAP's name, or
    "auto". ordered: whether pictures follow each other, as a video's. threads: 0 for as many as there are cores."""

    feature_size: int = 1000
    model: str = "auto"
    ordered: bool = False
    seed: int = 0
    threads: int = 0


@dataclass
class Structure:
    """What came out. models: names of the pictures in each, the largest first. way: how it was found. matches: how many
    points of two pictures are the same, by their names. features: of each picture."""

    models: list[set[str]] = field(default_factory=list)
    way: str = ""
    points: int = 0
    error: float = 0.0
    matches: dict[tuple[str, str], int] = field(default_factory=dict)
    features: dict[str, int] = field(default_factory=dict)

    @property
    def registered(self) -> set[str]:
        return self.models[0] if self.models else set()


def find_structure(pictures: list[Picture], folder: Path, settings: Settings) -> Structure:
    """Cameras of the pictures in `folder/images`, written to `folder/sparse/0`.

    Pairs are compared in ways that take ever longer, until most pictures have a camera. Raises BadInput where none of
    them gives any.
    """
    colmap = pycolmap_or_say()
    database = folder / "database.db"
    with saving(database):
        folder.mkdir(parents=True, exist_ok=True)
    names = [picture.name for picture in pictures]
    with failing_clearly(colmap, folder):
        extract(colmap, pictures, folder, settings)
        best = Structure()
        for way, pairs in ways(colmap, names, database, settings):
            match(colmap, database, names, pairs, settings)
            found = map_cameras(colmap, folder, way, settings, len(names))
            best = max(best, found, key=lambda one: len(one.registered))
            if len(best.registered) >= ENOUGH_REGISTERED * len(names):
                break
        best.matches, best.features = read_matches(colmap, database)
    return best


def ways(colmap, names: list[str], database: Path, settings: Settings) -> Iterator[tuple[str, list[Pair]]]:
    """What to compare, the quickest first, and how to go on from there."""
    count = len(names)
    if settings.ordered or count > MOST_EXHAUSTIVE:
        alike = looking_alike(read_descriptors(colmap, database, names), settings.seed)
        yield "sequential", sorted({*following(count), *alike})
    yield "exhaustive", all_pairs(count)
    yield "global", []


@contextmanager
def failing_clearly(colmap, folder: Path) -> Iterator[None]:
    """What the library raises, such as on a full disk, as a line that says what stays."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        raise BadInput(
            f"{folder}: structure from motion failed ({first_line(error)}); what was computed stays, the same command "
            "goes on: see that there is space on the disk and the pictures are whole"
        ) from error


# -------------------------------------------------------------------------------------- features


def extract(colmap, pictures: list[Picture], folder: Path, settings: Settings) -> None:
    """SIFT features of each picture, of one camera those that one took."""
    options = colmap.FeatureExtractionOptions()
    options.max_image_size, options.use_gpu = settings.feature_size, False
    options.num_threads = settings.threads or -1
    with colmap.Database.open(folder / "database.db") as database:
        there = {image.name: image for image in database.read_all_images()}
        done = {name for name, image in there.items() if database.exists_keypoints(image.image_id)}
    groups: dict[str, list[str]] = {}
    for picture in pictures:
        groups.setdefault(picture.camera, []).append(picture.name)
    path, images = folder / "database.db", folder / "images"
    with progress_bar(total=len(pictures), initial=len(done), desc="features", unit="picture") as bar:
        for names in groups.values():
            reader = colmap.ImageReaderOptions()
            reader.camera_model = lens_model(settings.model, len(names))
            known = [there[name].camera_id for name in names if name in there]
            reader.existing_camera_id = known[0] if known else -1
            new = [name for name in names if name not in there]
            if new:  # in order, which threads that extract would not keep: numbers decide what mapping begins with
                colmap.import_images(path, images, colmap.CameraMode.SINGLE, new, reader)
                with colmap.Database.open(path) as database:
                    reader.existing_camera_id = database.read_image_with_name(new[0]).camera_id
            todo = [name for name in names if name not in done]
            for start in range(0, len(todo), FEATURES_AT_ONCE):
                some = todo[start : start + FEATURES_AT_ONCE]
                single = colmap.CameraMode.SINGLE
                colmap.extract_features(path, images, some, single, reader, options, colmap.Device.cpu)
                bar.update(len(some))


def lens_model(wanted: str, pictures: int) -> str:
    if wanted != "auto":
        return wanted
    return "OPENCV" if pictures >= MANY_OF_ONE_CAMERA else "SIMPLE_RADIAL"


def read_descriptors(colmap, database: Path, names: list[str]) -> list[np.ndarray]:
    """SIFT's descriptors of each picture, uint8 `[K, 128]`."""
    with colmap.Database.open(database) as opened:
        images = {image.name: image.image_id for image in opened.read_all_images()}
        return [np.asarray(opened.read_descriptors(images[name]).data) for name in names]


# --------------------------------------------------------------------------------------- matches


def match(colmap, database: Path, names: list[str], pairs: list[Pair], settings: Settings) -> None:
    """Compares pairs of pictures that were not compared yet, and keeps what one camera motion explains."""
    with colmap.Database.open(database) as opened:
        images = {image.name: image.image_id for image in opened.read_all_images()}
        todo = [
            (names[i], names[j])
            for i, j in pairs
            if not opened.exists_two_view_geometry(images[names[i]], images[names[j]])
        ]
    matching, verifying = colmap.FeatureMatchingOptions(), colmap.TwoViewGeometryOptions()
    matching.use_gpu, matching.num_threads = False, settings.threads or -1
    verifying.ransac.random_seed = settings.seed
    done = len(pairs) - len(todo)
    with (
        tempfile.TemporaryDirectory() as scratch,
        progress_bar(total=len(pairs), initial=done, desc="matches", unit="pair") as bar,
    ):
        listed = colmap.ImportedPairingOptions()
        listed.match_list_path = str(Path(scratch, "pairs.txt"))
        for start in range(0, len(todo), PAIRS_AT_ONCE):
            some = todo[start : start + PAIRS_AT_ONCE]
            Path(listed.match_list_path).write_text("".join(f"{one} {other}\n" for one, other in some))
            colmap.match_image_pairs(database, matching, listed, verifying, colmap.Device.cpu)
            bar.update(len(some))


def read_matches(colmap, database: Path) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    with colmap.Database.open(database) as opened:
        names = {image.image_id: image.name for image in opened.read_all_images()}
        pairs, inliers = opened.read_two_view_geometry_num_inliers()
        matches = {}
        for pair, count in zip(pairs, inliers, strict=True):
            one, other = colmap.pair_id_to_image_pair(pair)
            if count:
                matches[names[one], names[other]] = int(count)
        features = {name: int(opened.num_keypoints_for_image(number)) for number, name in names.items()}
    return matches, features


# ---------------------------------------------------------------------------------------- cameras


def map_cameras(colmap, folder: Path, way: str, settings: Settings, count: int) -> Structure:
    """Cameras and points from the matches there are; the largest model goes to `sparse/0`, unless a larger one is
    there."""
    images, database = folder / "images", folder / "database.db"
    colmap.set_random_seed(settings.seed)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if way == "global":
            say("few pictures have a camera yet: all at once, by global mapping")
            options = colmap.GlobalPipelineOptions()
            options.random_seed, options.num_threads = settings.seed, 1
            models = colmap.global_mapping(database, images, scratch, options)
        else:
            options = colmap.IncrementalPipelineOptions()
            options.random_seed, options.num_threads = settings.seed, 1  # of several the order of sums differs
            options.min_model_size = 3
            with progress_bar(total=count, desc="cameras", unit="picture") as bar:
                models = colmap.incremental_mapping(
                    database, images, scratch, options,
                    initial_image_pair_callback=lambda: bar.update(2), next_image_callback=lambda: bar.update(1),
                )  # fmt: skip
        ranked = sorted(models.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
        structure = Structure([names_in(model) for model in ranked], way)
        if ranked:
            structure.points = ranked[0].num_points3D()
            structure.error = round(float(ranked[0].compute_mean_reprojection_error()), 4)
            keep(colmap, ranked[0], folder / "sparse" / "0", Path(scratch))
    return structure


def names_in(model) -> set[str]:
    return {model.image(number).name for number in model.reg_image_ids()}


def keep(colmap, model, place: Path, scratch: Path) -> None:
    """Writes a model, in whole or not at all, unless what is there has as many pictures."""
    if (place / "images.bin").is_file() and colmap.Reconstruction(place).num_reg_images() >= model.num_reg_images():
        return
    written = scratch / "kept"
    with saving(place):
        written.mkdir()
        model.write_binary(written)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            shutil.rmtree(place)
        shutil.move(written, place)
