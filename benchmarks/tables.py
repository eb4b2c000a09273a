"""Writes the tables of README.md from the measurements in docs/results.

python benchmarks/tables.py [--check]

A table stands between `<!-- results NAME... -->` and `<!-- end -->`, one row a model of each named
file. With --check nothing is written; the exit status is 1 where README.md is out of date.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"float32": "float32", "int8_ptq": "int8, calibrated only", "fake_quant": "", "int8": "**int8, trained**"}
BLOCK = re.compile(r"(<!-- (results|speed) ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def results_table(names: list[str]) -> str:
    """Quality, bytes and frame time of each model in `metrics.json` files."""
    lines = ["| run | model | PSNR | SSIM | bytes | of float | s/frame |", "|---|---|--:|--:|--:|--:|--:|"]
    notes = []
    for name in names:
        run = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
        models = run["models"]
        for model, label in MODELS.items():
            if not label or model not in models:
                continue
            entry = models[model]
            lines.append(
                f"| {run['expname']} | {label} | {entry['psnr']:.2f} | {entry['ssim']:.4f} | {entry['bytes']:,} | "
                f"{entry['bytes'] / models['float32']['bytes']:.3f} | {entry['seconds_per_frame']:.3f} |"
            )
        size = f"{models['int8']['width']}x{models['int8']['height']}"
        notes.append(
            f"`{run['expname']}`: {models['int8']['views']} views of {size}, {run['train']['steps']} steps in "
            f"{run['train']['seconds'] / 60:.1f} minutes, int8 by {models['int8']['backend']}, {run['device']}, "
            f"{run['threads']} threads, torch {run['torch']}, {run['date']}, `{run['command']}`."
        )
    return "\n".join(lines) + "\n\n" + "  \n".join(notes) + "\n"


def speed_table(names: list[str]) -> str:
    """The frame times of benchmarks/render_vs_nerf_pytorch.py."""
    run = json.loads((ROOT / "docs" / "results" / f"{names[0]}.json").read_text())
    labels = {
        "nerf_pytorch": "nerf-pytorch `render`",
        "ours_without_skipping": "ours, nothing skipped",
        "ours": "**ours**",
    }
    lines = ["| renderer | s/frame | PSNR | network queries |", "|---|--:|--:|--:|"]
    for name, label in labels.items():
        entry = run[name]
        lines.append(f"| {label} | {entry['median_seconds']:.3f} | {entry['psnr']:.2f} | {entry['queries']:,.0f} |")
    facts = run["facts"]
    height, width = run["picture"]
    note = (
        f"{run['speedup']:.0f} times faster; skipping costs {run['psnr_lost_by_skipping']:.3f} dB. "
        f"Median over {run['views']} views of {width}x{height}, {facts['device']}, {facts['threads']} threads, "
        f"torch {facts['torch']}, {facts['date']}, `{facts['command']}`."
    )
    return "\n".join(lines) + "\n\n" + note + "\n"


def main() -> int:
    readme = ROOT / "README.md"
    old = readme.read_text()
    makers = {"results": results_table, "speed": speed_table}
    new = BLOCK.sub(lambda m: m[1] + makers[m[2]](m[3].split()) + m[4], old)
    if "--check" in sys.argv:
        return int(new != old)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
