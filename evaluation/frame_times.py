"""Where the time of a frame goes."""

import time

import numpy as np
import torch

from rendering.renderer import RenderLimits, render_image
from scenes.scene import Cameras

STAGES = ("traversal", "encoding", "network", "compositing")


def stage_table(renderer: torch.nn.Module, camera: Cameras, limits: RenderLimits, repeats: int = 5) -> str:
    """Where the time of a frame goes, as text: milliseconds and share of each stage, frames per second.

    Stages are those of the occupancy renderer on the CPU; "the rest" is moving rows between them.
    """
    render_image(renderer, camera, limits)  # warm up
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        render_image(renderer, camera, limits)
        seconds.append(time.perf_counter() - started)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        render_image(renderer, camera, limits)
    frame = float(np.median(seconds))
    profiled = {event.key: event.cpu_time_total * 1e-6 for event in profiler.key_averages()}
    total = max(e.time_range.end for e in profiler.events()) - min(e.time_range.start for e in profiler.events())
    parts = {name: profiled.get(name, 0.0) / (total * 1e-6) for name in STAGES}
    parts["the rest"] = max(0.0, 1 - sum(parts.values()))
    lines = [f"{'stage':<14}{'ms':>9}{'share':>8}"]
    lines += [f"{name:<14}{1e3 * frame * share:>9.2f}{share:>8.0%}" for name, share in parts.items()]
    return "\n".join([*lines, f"{'frame':<14}{1e3 * frame:>9.2f}{1 / frame:>8.2f} frames/s"])
