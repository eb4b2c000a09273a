"""Shared by all tests: the modules at the repository's root, globals put back, and the real example scenes.

Every test starts from the same random seed and the process's own number of threads, default types
and signal handlers, and leaves them so, whatever it or a command that it runs has set: no number
hangs on which tests ran before.

The scenes are looked for in $NERF_QAT_DATA if that is set, else in data/ (where
scripts/download_example_data.sh puts them) and ../shared/data. A test that asks for a scene which
is not there is skipped, with the reason.
"""

import contextlib
import logging
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


@contextlib.contextmanager
def globals_put_back() -> Iterator[None]:
    """Seeds every generator; afterwards puts back these and all else that torch and Python hold for a process."""
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    levels = {name: logging.getLogger(name).level for name in ("root", *logging.root.manager.loggerDict)}
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)  # what a process starts with; its name instead would stay on as a mode
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@pytest.fixture(autouse=True)
def _globals_put_back() -> Iterator[None]:
    environment = dict(os.environ)
    with globals_put_back():
        yield
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef):
    """What a module's fixture sets does not reach the test that happens to be its first either."""
    if fixturedef.scope == "function":  # of a test, which puts back all
        return (yield)
    with globals_put_back():
        return (yield)


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
def fox_dir() -> Path:
    """Instant-NGP's fox: 50 photographs and their cameras, without points."""
    return find_scene("fox", "transforms.json")


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


@pytest.fixture(scope="module")
def scene():
    """The built-in scene of the tiny runs."""
    from helpers import TINY  # what takes seconds to import, for who needs it

    from load_scene import load_scene
    from options import config_parser

    return load_scene(config_parser().parse_args(TINY))
