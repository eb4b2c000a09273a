"""The page in the browser, by viser: pictures behind a scene of outlines, and what can be set."""

import contextlib
import io
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rendering.renderer import Renderer
from run_nerf_helpers import to8b
from scenes.scene import Cameras, Scene
from utils.errors import BadInput, UserError, in_short
from utils.files import write_json
from viewer.camera_path import FPS, CameraPath
from viewer.layers import LAYERS, drawn, z_depth
from viewer.outlines import box_edges, great_circles, surface_cells
from viewer.render_thread import Picture, RenderThread
from viewer.views import View, from_viser, looked_at, to_viser, up_of

MOST_PHOTOGRAPHS = 150  # that are drawn
THUMBNAIL = 96  # pixels of its longer side
FINEST = 512  # pixels of the longer side of a picture, unless set otherwise
JPEG_QUALITY = 90
TRAIN, TEST, BOX, CELLS, BALL, PATH = (
    (50, 110, 190), (60, 160, 80), (200, 90, 40), (230, 170, 60), (150, 150, 150), (190, 60, 120)
)  # fmt: skip


@dataclass(frozen=True)
class Exhibit:
    """What a page shows. models: one or two, in evaluation mode; notes: a line of each. path: of their videos, whose
    first camera is where one begins. folder: of the camera paths that are saved. scene: whose photographs are drawn.
    ball: radius, where space is contracted."""

    models: Sequence[Renderer]
    notes: Sequence[str]
    path: Cameras
    folder: Path
    scene: Scene | None = None
    ball: float | None = None


def viser_or_say():
    """The library. Raises BadInput where it is not installed."""
    try:
        import viser
    except ImportError as error:
        raise BadInput("the viewer needs viser: pip install -r requirements-viewer.txt") from error
    return viser


def serve(host: str, port: int):
    """A viser server. Raises BadInput where it cannot have that port, for which viser would take the next."""
    viser = viser_or_say()
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # of browsers that open connections in reserve
    try:
        with socket.create_server((host, port)):
            pass
    except (OSError, UnicodeError, OverflowError) as error:
        raise BadInput(f"--host {host} --port {port}: {in_short(error)}; give another --port") from error
    with contextlib.redirect_stdout(io.StringIO()):  # a frame around the address
        server = viser.ViserServer(host=host, port=port, verbose=False)
    server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
    return server


class Page:
    """Serves what is exhibited, until it is closed; a thread of its own renders. share: of the time, the most that it
    does."""

    def __init__(self, exhibit: Exhibit, host: str, port: int, share: float = 1.0):
        self.exhibit = exhibit
        self.server = serve(host, port)
        self.address = f"http://{host}:{self.server.get_port()}"
        self.renders = RenderThread(exhibit.models, exhibit.path[0], self._show, self._fail, share)
        self.camera_path = CameraPath()
        self._playing = False
        self._outlines: dict[str, list] = {}
        self._set_start()
        self._add_settings()
        self._add_outlines()
        self._add_path()
        self.server.on_client_connect(self._connected)
        self.server.on_client_disconnect(self._left)
        self.renders.start()

    def close(self) -> None:
        """Ends the thread and the server; browsers say so."""
        self._playing = False
        self.renders.close()
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()

    @property
    def watched(self) -> bool:
        """Whether a browser is connected."""
        return self.renders.watched

    def replace(self, models: Sequence[Renderer], note: str) -> None:
        """Shows other networks of the same scene from now on."""
        self.notes.content = note
        self.renders.replace(models)
        self._draw_cells()

    # ------------------------------------------------------------------------------- what is set

    def _set_start(self) -> None:
        path, camera = self.exhibit.path, self.server.initial_camera
        up = up_of(path)
        self.server.scene.set_up_direction(tuple(up))
        view = View.of_camera(path[0])
        self._size = float(np.linalg.norm(looked_at(path) - view.c2w[:, 3]))  # of what is drawn, by the distance to it
        camera.position, camera.look_at, camera.up, camera.fov = view.c2w[:, 3], looked_at(path), up, view.fov

    def _add_settings(self) -> None:
        gui = self.server.gui
        self.notes = gui.add_markdown("  \n".join(self.exhibit.notes))
        self.layer = gui.add_dropdown("show", LAYERS)
        self.seam = gui.add_slider(
            "seam", 0.0, 1.0, 0.01, 0.5, hint="left of it the first file", visible=len(self.exhibit.models) > 1
        )
        self.finest = gui.add_slider("finest, pixels", 64, 2048, 32, FINEST, hint="longer side of a still picture")
        self.status = gui.add_markdown("")
        self.layer.on_update(lambda _: self.renders.redraw())
        self.seam.on_update(lambda _: self.renders.redraw())
        self.finest.on_update(lambda _: self._look_again())

    def _look_again(self) -> None:
        for client in self.server.get_clients().values():
            self._look(client.camera)

    # ------------------------------------------------------------------------------- who watches

    async def _connected(self, client) -> None:
        client.camera.on_update(self._moved)
        self._look(client.camera)

    async def _moved(self, camera) -> None:
        self._look(camera)

    async def _left(self, client) -> None:
        self.renders.leave(client.client_id)

    def _look(self, camera) -> None:
        canvas = camera.image_height, camera.image_width
        if min(canvas) > 0:
            self.renders.look(camera.client.client_id, view_of(camera), min(max(canvas), self.finest.value))

    # --------------------------------------------------------------------------- from the thread

    def _show(self, key: int, picture: Picture) -> None:
        client = self.server.get_clients().get(key)
        if client is None:
            return
        renderings, camera, offset = picture.renderings, picture.camera, self.exhibit.models[0].setup.pixel_offset
        image = drawn(self.layer.value, renderings, camera, offset, self.seam.value)
        outlined = any(handle.visible for handles in self._outlines.values() for handle in handles)
        depth = z_depth(renderings, camera, offset, self.seam.value) if outlined else None
        client.scene.set_background_image(image, format="jpeg", jpeg_quality=JPEG_QUALITY, depth=depth)
        self.status.content = f"{camera.width} x {camera.height} pixels in {1000 * picture.seconds:.0f} ms"

    def _fail(self, key: int, reason: str) -> None:
        self.status.content = reason

    # ------------------------------------------------------------------------------ what is around

    def _add_outlines(self) -> None:
        """Boxes to tick, of what is known; NDC is another space than that of the cameras."""
        exhibit, draw = self.exhibit, self.server.scene.add_line_segments
        grid, in_world = exhibit.models[0].occupied(), exhibit.models[0].setup.ndc_near is None
        box = None if grid is None else grid.aabb
        if grid is None and exhibit.scene is not None and not exhibit.scene.ndc:
            box = exhibit.scene.aabb
        thickness = 0.003 * self._size
        if exhibit.scene is not None:
            self._outlines["photographs"] = self._photographs(exhibit.scene, 0.06 * self._size)
        if box is not None and in_world and exhibit.ball is None:
            edges = box_edges(box.cpu().numpy())
            self._outlines["box"] = [draw("/box", edges, BOX, thickness=thickness, visible=False)]
        if exhibit.ball:
            circles = great_circles(exhibit.ball)
            self._outlines["ball"] = [draw("/ball", circles, BALL, thickness=thickness, visible=False)]
        if grid is not None and in_world:
            self._outlines["occupied cells"] = []
        if not self._outlines:
            return
        with self.server.gui.add_folder("Around it"):
            self.ticks = {name: self.server.gui.add_checkbox(name, False) for name in self._outlines}
        for name, tick in self.ticks.items():
            tick.on_update(lambda _, name=name: self._tick(name))

    def _tick(self, name: str) -> None:
        if name == "occupied cells":
            self._draw_cells()
        for handle in self._outlines[name]:
            handle.visible = self.ticks[name].value
        self.renders.redraw()

    def _draw_cells(self) -> None:
        """Those of the networks that are shown now."""
        if "occupied cells" in self._outlines and self.ticks["occupied cells"].value:
            grid = self.renders.models[0].occupied()
            size = 0.3 * float(grid.cell.max())
            cells = self.server.scene.add_point_cloud("/cells", surface_cells(grid), CELLS, point_size=size)
            self._outlines["occupied cells"] = [cells]

    def _photographs(self, scene: Scene, scale: float) -> list:
        handles, test = [], set(scene.splits["test"])
        count = len(scene.cameras)
        for view in np.unique(np.linspace(0, count - 1, min(count, MOST_PHOTOGRAPHS)).astype(int)).tolist():
            camera = View.of_camera(scene.cameras[view])
            picture = to8b(scene.picture(view)[0]).numpy()
            height, width = camera.size(min(THUMBNAIL, max(picture.shape[:2])))
            wxyz, position = to_viser(camera.c2w)
            handle = self.server.scene.add_camera_frustum(
                f"/photographs/{view:04d}", camera.fov, camera.aspect, scale=scale, thickness=0.02 * scale,
                color=TEST if view in test else TRAIN, wxyz=wxyz, position=position, visible=False,
                image=cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA),
            )  # fmt: skip
            handle.on_click(lambda event, camera=camera: fly(event.client, camera.c2w))
            handles.append(handle)
        return handles

    # ------------------------------------------------------------------------------ camera paths

    def _add_path(self) -> None:
        gui = self.server.gui
        self._outlines["path"] = []
        with gui.add_folder("Camera path"):
            self.listed = gui.add_markdown("no camera yet")
            buttons = {
                "add camera here": self._add_camera,
                "remove the last": lambda _: self._change_path(self.camera_path.keys[:-1]),
                "clear": lambda _: self._change_path([]),
                "preview, or stop it": self._preview,
                "save": self._save,
            }
            self.seconds = gui.add_slider("seconds between two", 0.1, 10.0, 0.1, 2.0)
            self.closed = gui.add_checkbox("back to the first", False)
            for label, pressed in buttons.items():
                gui.add_button(label).on_click(pressed)
        self.closed.on_update(lambda _: self._change_path(self.camera_path.keys))
        self.seconds.on_update(lambda _: self._change_path(self.camera_path.keys))

    def _add_camera(self, event) -> None:
        if event.client is not None:
            self._change_path([*self.camera_path.keys, view_of(event.client.camera)])

    def _change_path(self, keys: list[View]) -> None:
        """The path, its list and its line in the scene."""
        path, scene = self.camera_path, self.server.scene
        path.keys, path.closed, self._playing = list(keys), self.closed.value, False
        for handle in self._outlines["path"]:
            handle.remove()
        self._outlines["path"] = []
        places = [f"{i + 1}. at {np.round(key.c2w[:, 3], 2).tolist()}" for i, key in enumerate(keys)]
        self.listed.content = "  \n".join(places) or "no camera yet"
        if len(keys) > 1:
            frames = path.frames(self.seconds.value)
            eyes = np.concatenate([frames, frames[:1]] if path.closed else [frames])[:, :, 3]
            segments, thickness = np.stack([eyes[:-1], eyes[1:]], 1), 0.003 * self._size
            self._outlines["path"].append(scene.add_line_segments("/path/line", segments, PATH, thickness=thickness))
        for i, key in enumerate(keys):
            wxyz, position = to_viser(key.c2w)
            frustum = scene.add_camera_frustum(
                f"/path/{i}",
                key.fov,
                key.aspect,
                scale=0.04 * self._size,
                thickness=0.002 * self._size,
                color=PATH,
                wxyz=wxyz,
                position=position,
            )
            self._outlines["path"].append(frustum)
        self.renders.redraw()

    def _preview(self, event) -> None:
        """Moves the camera of who asked along the path in real time; runs in a thread of viser's."""
        if self._playing or event.client is None:
            self._playing = False
            return
        try:
            frames = self.camera_path.frames(self.seconds.value)
        except BadInput as error:
            self.status.content = str(error)
            return
        self._playing, started, number = True, time.monotonic(), 0
        self._show_path(False)  # it would be flown through
        while self._playing and number < len(frames) and event.client.client_id in self.server.get_clients():
            fly(event.client, frames[number])
            time.sleep(1 / FPS)
            number = int((time.monotonic() - started) * FPS)
        self._playing = False
        self._show_path(True)

    def _show_path(self, visible: bool) -> None:
        for handle in self._outlines["path"]:
            handle.visible = visible
        self.renders.redraw()

    def _save(self, _) -> None:
        """Into a file that is not there yet, beside the model."""
        folder, size = self.exhibit.folder, self.exhibit.path
        names = (folder / f"camera_path{f'_{n}' if n > 1 else ''}.json" for n in range(1, 10_000))
        try:
            content = self.camera_path.content(self.seconds.value, size.height, size.width)
            file = next(name for name in names if not name.exists())
            write_json(file, content)
        except UserError as error:
            self.status.content = str(error)
        else:
            self.status.content = f"saved {len(content['camera_path'])} frames: `--path {file}`"


def view_of(camera) -> View:
    """Of a viser client's camera."""
    return View(from_viser(camera.wxyz, camera.position), camera.fov, camera.image_width / camera.image_height)


def fly(client, c2w: np.ndarray) -> None:
    """Moves a viser client's camera to camera-to-world `[3, 4]`."""
    with client.atomic():
        client.camera.wxyz, client.camera.position = to_viser(c2w)
