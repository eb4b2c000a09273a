"""Shared by all tests: the modules at the repository's root, and the real example scenes.

The scenes are looked for in $NERF_QAT_DATA if that is set, else in data/ (where
scripts/download_example_data.sh puts them) and ../shared/data. A test that asks for a scene which
is not there is skipped, with the reason.
"""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def find_scene(name: str, proof: str) -> Path:
    """The folder of a real scene, known by a file it must hold; skips the test where there is none."""
    given = os.environ.get("NERF_QAT_DATA")
    places = [Path(given)] if given else [ROOT / "data", ROOT.parent / "shared" / "data"]
    for place in places:
        if (place / name / proof).is_file():
            return place / name
    looked = " or ".join(str(place) for place in places)
    pytest.skip(
        f"no {name} in {looked}: run scripts/download_example_data.sh, or set NERF_QAT_DATA to the folder "
        "that holds nerf_synthetic and nerf_llff_data"
    )


@pytest.fixture(scope="session")
def lego_dir() -> Path:
    """The Blender scene lego, 800x800 RGBA."""
    return find_scene("nerf_synthetic/lego", "transforms_train.json")


@pytest.fixture(scope="session")
def fern_dir() -> Path:
    """The LLFF scene fern, with at least `images_8`."""
    return find_scene("nerf_llff_data/fern", "poses_bounds.npy")


@pytest.fixture(scope="session")
def small_cluster():
    """Ray with a cluster of two cores of this machine."""
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install -r requirements-ray.txt")
    given = os.environ.pop("RAY_ADDRESS", None)
    ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
    if given is not None:
        os.environ["RAY_ADDRESS"] = given
