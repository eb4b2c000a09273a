"""The thread that renders: coarse, then finer, the newest view first; and what it makes of every kind of model file."""

import queue
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from deploy.model_file import load_renderer
from rendering.rays import RaySetup
from rendering.renderer import Rendering, make_rays_of, render_image
from scenes.poses import orbit_path
from scenes.scene import Cameras, pinhole
from utils.errors import BrokenFile
from viewer import render_thread
from viewer.layers import LAYERS, drawn
from viewer.render_thread import RenderThread
from viewer.views import View

CPU = torch.device("cpu")
FRAME = Cameras(torch.eye(3, 4)[None], pinhole(40.0, 40, 40)[None], 40, 40)
GOLDEN = sorted(ROOT.glob("tests/golden/*/model_*.safetensors"))
LIMIT = 20  # seconds, after which a test is given up


class Painter:
    """A model of one colour, that waits at every part of a picture where it is told to."""

    setup, wants_cones, device, background = RaySetup(0.1, 5.0), False, CPU, torch.zeros(3)

    def __init__(self, color: float = 0.5):
        self.color, self.go, self.asked = color, threading.Event(), queue.Queue()
        self.go.set()

    def occupied(self) -> None:
        return None

    def bytes_per_ray(self) -> int:
        return 1

    def __call__(self, rays, background) -> Rendering:
        self.asked.put(len(rays))
        assert self.go.wait(LIMIT)
        if self.color > 1:
            raise BrokenFile("colours that are not finite numbers")
        of_rays = torch.full((len(rays),), self.color)
        return Rendering(of_rays[:, None].expand(-1, 3), of_rays, of_rays)


@pytest.fixture
def made(monkeypatch):
    """Makes threads whose pictures and failures are in queues, and ends them."""
    monkeypatch.setattr(render_thread, "SETTLES", 0.01)
    monkeypatch.setattr(render_thread, "LEAST_RAYS", 100)
    monkeypatch.setattr(render_thread, "PART", 0.0)
    threads = []

    def make(*models, **options) -> tuple[RenderThread, queue.Queue, queue.Queue]:
        shown, failed = queue.Queue(), queue.Queue()
        thread = RenderThread(
            list(models), FRAME, lambda *what: shown.put(what), lambda *what: failed.put(what), **options
        )
        thread.start()
        threads.append((thread, models))
        return thread, shown, failed

    yield make
    for thread, models in threads:
        for model in models:
            model.go.set()
        thread.close()
        assert not thread.is_alive()


def view(x: float = 0.0) -> View:
    return View(np.concatenate([np.eye(3), [[x], [0], [0]]], axis=1), 1.0, 1.0)


def until_done(shown: queue.Queue, side: int) -> list:
    """All pictures up to the first with so many pixels on a side."""
    pictures = [shown.get(timeout=LIMIT)[1]]
    while pictures[-1].camera.height < side:
        pictures.append(shown.get(timeout=LIMIT)[1])
    return pictures


def test_coarse_then_finer_up_to_the_finest(made):
    thread, shown, _ = made(Painter())
    assert not thread.watched
    thread.look(7, view(), 300)
    sides = [picture.camera.height for picture in until_done(shown, 300)]
    assert thread.watched and sides[0] == 64 and sides == sorted(set(sides)) and sides[-1] == 300
    assert shown.empty()  # and then it waits


def test_two_models_from_one_camera(made):
    thread, shown, _ = made(Painter(0.2), Painter(0.8))
    thread.look(0, view(), 64)
    (picture,) = until_done(shown, 64)
    assert [float(one.rgb.mean()) for one in picture.renderings] == [pytest.approx(0.2), pytest.approx(0.8)]


def test_a_newer_view_drops_what_is_not_done(made, monkeypatch):
    model = Painter()
    thread, shown, _ = made(model)
    monkeypatch.setattr(render_thread, "SETTLES", 3600.0)
    thread.look(0, view(1.0), 512)
    until_done(shown, 64)
    begun = model.asked.qsize()
    model.go.clear()
    monkeypatch.setattr(render_thread, "SETTLES", 0.0)
    thread.redraw()  # which wakes it
    for _ in range(begun + 1):
        model.asked.get(timeout=LIMIT)
    thread.look(0, view(2.0), 512)  # while the first part of a finer picture is being rendered
    model.go.set()
    pictures = until_done(shown, 512)
    assert pictures[0].camera.height == 64  # the one shown again
    assert {float(picture.camera.c2w[0, 0, 3]) for picture in pictures[1:]} == {2.0}
    assert model.asked.qsize() == sum(-(-(picture.camera.height**2) // 100) for picture in pictures[1:])


def test_a_first_picture_is_finished_though_the_camera_moves_on(made):
    model = Painter()
    thread, shown, _ = made(model)
    model.go.clear()
    thread.look(0, view(1.0), 512)
    model.asked.get(timeout=LIMIT)
    for x in (2.0, 3.0):
        thread.look(0, view(x), 512)
    model.go.set()
    first, second = (shown.get(timeout=LIMIT)[1] for _ in range(2))
    assert float(first.camera.c2w[0, 0, 3]) == 1.0
    assert float(second.camera.c2w[0, 0, 3]) == 3.0  # 2 was never begun


def test_shown_again_without_rendering(made):
    model = Painter()
    thread, shown, _ = made(model)
    thread.look(0, view(), 64)
    (picture,) = until_done(shown, 64)
    asked = model.asked.qsize()
    thread.redraw()
    assert shown.get(timeout=LIMIT)[1] is picture and model.asked.qsize() == asked


def test_other_networks_are_seen_at_once_at_the_finest(made):
    thread, shown, _ = made(Painter(0.2))
    thread.look(0, view(), 128)
    until_done(shown, 128)
    thread.replace([Painter(0.6)])
    (picture,) = until_done(shown, 128)
    assert float(picture.renderings[0].rgb.mean()) == pytest.approx(0.6)


def test_all_who_watch_are_served_until_they_leave(made):
    thread, shown, _ = made(Painter())
    for key in (1, 2):
        thread.look(key, view(key), 64)
    assert {shown.get(timeout=LIMIT)[0] for _ in range(2)} == {1, 2}
    thread.leave(1)
    thread.leave(1)
    thread.replace([Painter(0.6)])
    assert shown.get(timeout=LIMIT)[0] == 2 and shown.empty()


def test_what_goes_wrong_is_told_and_the_next_view_rendered(made, capsys):
    thread, shown, failed = made(Painter(2.0))
    thread.look(3, view(), 64)
    assert failed.get(timeout=LIMIT) == (3, "colours that are not finite numbers")
    assert "viewer: colours" in capsys.readouterr().err
    thread.replace([Painter(0.6)])
    thread.look(3, view(1.0), 64)
    assert shown.get(timeout=LIMIT)[0] == 3


def test_a_share_of_the_time(made, monkeypatch):
    waits = []
    thread, shown, _ = made(Painter(), share=0.25)
    monkeypatch.setattr(thread._closed, "wait", waits.append)
    thread.look(0, view(), 64)
    (picture,) = until_done(shown, 64)
    thread.close()
    assert waits == [pytest.approx(3 * picture.seconds)]


def test_ndc_is_that_of_the_file_whatever_the_window():
    """A window of twice the width sees what the file's camera sees in its middle."""
    model = Painter()
    model.setup = RaySetup(0.0, 1.0, ndc_near=1.0)
    wide = Cameras(FRAME.c2w, pinhole(40.0, 40, 80)[None], 40, 80)
    seen, own = make_rays_of(model, wide, FRAME), make_rays_of(model, FRAME)
    for name in ("origins", "directions", "viewdirs"):
        middle = getattr(seen, name).view(40, 80, 3)[:, 20:60]
        assert torch.allclose(middle, getattr(own, name).view(40, 40, 3), atol=1e-6)


@pytest.mark.parametrize("file", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_kind_of_model_file_is_shown_in_all_layers(made, file: Path):
    renderer, path, _ = load_renderer(file, CPU)
    shown = queue.Queue()
    thread = RenderThread([renderer], path[0], lambda *what: shown.put(what), lambda *what: shown.put(what))
    thread.look(0, View.of_camera(path[0]), 8)
    thread.start()
    _, picture = shown.get(timeout=LIMIT)
    thread.close()
    for layer in LAYERS:
        image = drawn(layer, picture.renderings, picture.camera, renderer.setup.pixel_offset, 0.5)
        assert image.shape == (8, 8, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("distance", [0.7, 40.0])
def test_models_with_a_grid_are_seen_from_near_and_far(distance):
    """Their own bounds are those of the cameras that they were trained from."""
    renderer, path, _ = load_renderer(ROOT / "tests/golden/float/model_float32.safetensors", CPU)
    thread = RenderThread([renderer], path[0], print, print)
    setup = thread.models[0].setup
    assert setup.near < 0.01 * renderer.grid.diagonal and setup.far > 1e5
    camera = Cameras(orbit_path(distance, 30.0, 1), pinhole(20 * distance, 16, 16)[None], 16, 16)
    assert float(render_image(renderer, camera).opacity.max()) > 0.1
