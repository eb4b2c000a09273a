"""One thread that renders what is looked at: coarse while a camera moves, then finer; a newer view drops what is not
done."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rendering.renderer import Renderer, Rendering, RenderLimits, make_rays_of, render_parts, whole_picture
from scenes.scene import Cameras
from utils.bounds import FAR_AWAY
from utils.errors import UserError
from utils.progress import say
from viewer.pace import Pace, finer
from viewer.views import View

SETTLES = 0.15  # seconds without a newer view after which a camera stands still
PART = 0.04  # seconds of rendering after which a newer view is looked for
LEAST_RAYS = 2048  # of a part: fewer are slow


@dataclass
class Picture:
    """What models, one or two, show of a view. side: pixels of its longer side. seconds: they took."""

    renderings: list[Rendering]
    camera: Cameras
    side: float
    seconds: float


@dataclass
class Watcher:
    """A browser. view: where its camera is, since a time; longest: the longer side of its finest picture, pixels.
    picture: the latest. done: its side, 0 where there is none of this view. outdated: it is of networks that have
    changed since. redraw: it is to be shown in another way."""

    view: View
    longest: int
    since: float
    picture: Picture | None = None
    done: float = 0.0
    outdated: bool = False
    redraw: bool = False
    pace: Pace = field(default_factory=Pace)

    def next_side(self, now: float) -> float | None:
        """The longer side of the picture to render now, pixels; None where there is nothing to do yet, or at all."""
        if not self.done:
            height, width = self.view.size(self.longest)
            return self.pace.moving(self.longest, height * width)
        if now - self.since < SETTLES:
            return None
        if self.done < self.longest:
            return finer(self.done, self.longest)
        return self.longest if self.outdated else None


@dataclass(frozen=True)
class Task:
    """A picture for a watcher. side: of its longer side, pixels; None: the one that there is, shown again. first:
    whether it is the first of a view."""

    key: int
    watcher: Watcher
    view: View
    side: float | None
    first: bool


class RenderThread(threading.Thread):
    """Renders for all watchers, those first that have nothing to see of their view yet.

    models: one or two that are shown, in evaluation mode. frame: a camera of theirs, whose picture NDC fits. show:
    called in this thread with a watcher's key and picture. fail: with its key and one line, where there is none.
    share: of the time, the most that is rendered in.
    """

    def __init__(
        self,
        models: Sequence[Renderer],
        frame: Cameras,
        show: Callable[[int, Picture], None],
        fail: Callable[[int, str], None],
        share: float = 1.0,
    ):
        super().__init__(daemon=True, name="viewer")
        self.models, self.frame, self.share = [from_anywhere(model) for model in models], frame, share
        self._show, self._fail = show, fail
        self._watchers: dict[int, Watcher] = {}
        self._news = threading.Condition()
        self._closed = threading.Event()

    # ------------------------------------------------------------------------- from other threads

    @property
    def watched(self) -> bool:
        return bool(self._watchers)

    def look(self, key: int, view: View, longest: int) -> None:
        """A watcher, new or known, looks from a view, at a picture whose longer side is `longest` pixels at most."""
        with self._news:
            known = self._watchers.get(key)
            if known is None:
                self._watchers[key] = Watcher(view, longest, time.monotonic())
            else:
                known.view, known.longest, known.since, known.done = view, longest, time.monotonic(), 0.0
            self._news.notify()

    def leave(self, key: int) -> None:
        with self._news:
            self._watchers.pop(key, None)

    def redraw(self) -> None:
        """All are shown their pictures again."""
        with self._news:
            for watcher in self._watchers.values():
                watcher.redraw = watcher.picture is not None
            self._news.notify()

    def replace(self, models: Sequence[Renderer]) -> None:
        """Other networks from now on; what is being rendered is finished with those before."""
        with self._news:
            self.models = [from_anywhere(model) for model in models]
            for watcher in self._watchers.values():
                watcher.outdated = True
            self._news.notify()

    def close(self) -> None:
        """Ends the thread after the part that it renders."""
        self._closed.set()
        with self._news:
            self._news.notify()
        if self.is_alive():
            self.join()

    # ---------------------------------------------------------------------------- in this thread

    def run(self) -> None:
        while (task := self._next()) is not None:
            if task.side is None:
                self._show(task.key, task.watcher.picture)
                continue
            try:
                seconds = self._render(task, task.side)
            except (UserError, RuntimeError) as error:  # of a field that overflows; too little memory
                seconds = 0.0
                self._done(task, float(task.watcher.longest))
                say(f"viewer: {error}", sys.stderr)
                self._fail(task.key, str(error))
            self._closed.wait(seconds * (1 / self.share - 1))

    def _next(self) -> Task | None:
        """Waits for what to do; None: the end."""
        with self._news:
            while not self._closed.is_set():
                for key, watcher in self._watchers.items():
                    if watcher.redraw:
                        watcher.redraw = False
                        return Task(key, watcher, watcher.view, None, False)
                now = time.monotonic()
                sides = {key: watcher.next_side(now) for key, watcher in self._watchers.items()}
                wanted = [key for key, side in sides.items() if side is not None]
                if wanted:
                    key = min(wanted, key=lambda key: self._watchers[key].done)
                    watcher = self._watchers[key]
                    watcher.outdated = False
                    return Task(key, watcher, watcher.view, sides[key], first=not watcher.done)
                settling = [watcher.since + SETTLES - now for watcher in self._watchers.values()]
                settling = [seconds for seconds in settling if seconds > 0]
                self._news.wait(min(settling) if settling else None)
        return None

    def _render(self, task: Task, side: float) -> float:
        """A picture, shown unless it is dropped; returns its seconds."""
        camera, started = task.view.camera(*task.view.size(side)), time.perf_counter()
        renderings = []
        for model in self.models:
            parts = self._parts(task, model, camera)
            if parts is None:
                return time.perf_counter() - started
            renderings.append(whole_picture(parts, camera.height, camera.width))
        seconds = time.perf_counter() - started
        if task.first:
            task.watcher.pace.took(camera.height * camera.width, seconds)
        task.watcher.picture = Picture(renderings, camera, side, seconds)
        self._done(task, side)
        self._show(task.key, task.watcher.picture)
        return seconds

    def _parts(self, task: Task, model: Renderer, camera: Cameras) -> list[Rendering] | None:
        """Of a picture, on the CPU; None where it is dropped: nobody is there any more, or looks from elsewhere.

        The first picture of a view is finished all the same: a camera that goes on moving would never show one.
        """
        rays = make_rays_of(model, camera.to(model.device), self.frame.to(model.device))
        limits = RenderLimits(rays=max(LEAST_RAYS, int(PART / task.watcher.pace.cost)))
        parts = []
        for part in render_parts(model, rays, limits):
            parts.append(on_cpu(part))
            gone = self._closed.is_set() or task.key not in self._watchers
            if gone or (task.watcher.view is not task.view and not task.first):
                return None
        return parts

    def _done(self, task: Task, side: float) -> None:
        with self._news:
            if task.watcher.view is task.view:
                task.watcher.done = side


def from_anywhere(renderer: Renderer) -> Renderer:
    """Has a renderer with a grid in world space see all that lies in its cells, not only what did between the near and
    far of the cameras that it was trained from. Others place their samples between these."""
    grid = renderer.occupied()
    if grid is not None and renderer.setup.ndc_near is None:
        renderer.setup = replace(renderer.setup, near=1e-3 * grid.diagonal, far=FAR_AWAY)
    return renderer


def on_cpu(part: Rendering) -> Rendering:
    """What is shown of it."""
    extras = {name: value.cpu() for name, value in part.extras.items()}
    return Rendering(part.rgb.cpu(), part.depth.cpu(), part.opacity.cpu(), queries=part.queries, extras=extras)
