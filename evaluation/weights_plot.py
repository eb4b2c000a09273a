"""Where along some rays a renderer's networks see something: bins of proposals against the weights of the field."""

import io
from pathlib import Path

import torch

from rendering.renderer import Renderer, make_rays_of
from rendering.step_functions import mean_between, value_at
from scenes.scene import Scene
from utils.files import atomic_write

RAYS, PLACES = 6, 1000


def draw_weights(renderer: Renderer, scene: Scene, folder: Path) -> None:
    """`weights.png` of the first test view, or why there is none."""
    camera = scene.cameras[scene.splits["test"][0]].to(renderer.device)
    missing = plot_weights(renderer, camera, folder / "weights.png")
    if missing:
        print(f"note: --plot_weights: nothing drawn, {missing}")


@torch.no_grad()
def plot_weights(renderer: Renderer, camera, path: Path) -> str:
    """Draws, for rays from a picture's left to its right, the density of weights over distance, a line for each
    network. Returns why nothing was drawn; empty where it was. Matplotlib is an extra."""
    try:
        from matplotlib.figure import Figure  # not pyplot: no window system, nothing to close
    except ImportError:
        return "matplotlib is not installed; pip install matplotlib"
    rays = make_rays_of(renderer, camera)
    columns = torch.linspace(0.25, 0.75, RAYS) * (camera.width - 1)
    numbers = (camera.height // 2) * camera.width + columns.round().long()
    levels = renderer.eval().levels(rays.take(numbers.to(renderer.device)))
    if not levels:
        return f"--sampler {renderer.kind} has no proposals"
    densities = [(t.cpu(), (w / t.diff(dim=-1).clamp_min(1e-9)).cpu()) for t, w in levels]
    figure = Figure(figsize=(9, 2 * RAYS), layout="constrained")
    for i, axes in enumerate(figure.subplots(RAYS, 1, sharex=True)):
        for number, (t, density) in enumerate(densities):
            last = number == len(levels) - 1
            label = f"{'field' if last else f'proposal {number}'}, {density.shape[1]} bins"
            at = torch.linspace(float(t[i, 0]), float(t[i, -1]), PLACES)
            drawn = value_at(at[None], t[i, None], density[i, None])[0]
            axes.plot(at.numpy(), drawn.numpy(), label=label, lw=2 if last else 1)
            if not last:  # what it should have held
                within = mean_between(t[i, None], *(part[i, None] for part in densities[-1]))[0]
                axes.stairs(within.numpy(), t[i].numpy(), label="field in its bins", ls=":", color="0.5")
        axes.set_ylabel(f"pixel {int(columns[i])}, {camera.height // 2}")
    axes.set_xlabel("distance, multiples of the ray's direction")
    figure.axes[0].legend(fontsize=8)
    figure.axes[0].set_title("density of weights along rays")
    content = io.BytesIO()
    figure.savefig(content, dpi=90, format="png", metadata={"Software": None})
    atomic_write(path, content.getvalue())
    return ""
