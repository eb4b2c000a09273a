"""Draws the pictures of docs from docs/results: of each experiments*.json, and of each rate_NAME.json.

python benchmarks/plots.py     (needs `pip install matplotlib`)
"""

import statistics
import sys
from itertools import cycle
from pathlib import Path

from tables import ROOT, final_model, load, runs_by_experiment

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import matplotlib.ticker
except ImportError:
    sys.exit("error: benchmarks/plots.py needs matplotlib; pip install matplotlib")

COLORS = matplotlib.colormaps["tab20"].colors + matplotlib.colormaps["Dark2"].colors
MARKERS = "osD^v<>"


def main() -> None:
    for name in sorted(path.stem for path in (ROOT / "docs" / "results").glob("*.json")):
        if name.startswith("experiments"):
            runs = runs_by_experiment(load(name))
            steps_plot(runs, ROOT / "docs" / f"{name}_steps.png")
            bytes_plot(runs, ROOT / "docs" / f"{name}_bytes.png")
        elif name.startswith("rate_"):
            rate_plot(load(name), ROOT / "docs" / f"{name}.png")


def steps_plot(runs: dict[str, list[dict]], path: Path) -> None:
    """Training PSNR over steps, the mean of the seeds and the range between them."""
    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    for (name, repeats), color in zip(runs.items(), cycle(COLORS), strict=False):
        steps = [step for step, _ in repeats[0]["train"]["curve"]]
        values = [[psnr for _, psnr in run["train"]["curve"]] for run in repeats]
        mean = [statistics.mean(column) for column in zip(*values, strict=True)]
        axes.plot(steps, mean, label=name, lw=1.2, color=color)
        low, high = ([pick(column) for column in zip(*values, strict=True)] for pick in (min, max))
        axes.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)
    axes.set(xlabel="step", ylabel="training PSNR, dB", ylim=(18, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    save(figure, path)


def bytes_plot(runs: dict[str, list[dict]], path: Path) -> None:
    """Test PSNR against the bytes of the file that renders it, every seed a point."""
    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    for (name, repeats), color, marker in zip(runs.items(), cycle(COLORS), cycle(MARKERS), strict=False):
        models = [final_model(run) for run in repeats]
        points = [m["bytes"] / 1000 for m in models], [m["psnr"] for m in models]
        axes.scatter(*points, label=name, s=22, alpha=0.8, color=color, marker=marker)
    bytes_axes(axes)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7, ncols=2)
    save(figure, path)


def rate_plot(results: dict, path: Path) -> None:
    """Test PSNR against bytes of one field's compressed files, with the released recipe's and float32's."""
    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    points = [(entry["bytes"] / 1000, entry["psnr"]) for name, entry in results.items() if name.isdigit()]
    axes.plot(*zip(*sorted(points), strict=True), "o-", label="ours, `--target_bytes`")
    for name, label in {"original": "VQ-TensoRF's released recipe", "float": "float32"}.items():
        axes.plot(results[name]["bytes"] / 1000, results[name]["psnr"], "s", label=label)
    bytes_axes(axes)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    save(figure, path)


def bytes_axes(axes) -> None:
    axes.set(xlabel="bytes on disk, kB", ylabel="test PSNR, dB", xscale="log")
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def save(figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
