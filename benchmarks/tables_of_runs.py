"""Tables of what runs left: their `metrics.json`, and what benchmarks gathered of many of them."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = {
    "float32": "float32",
    "int8_ptq": "int8, calibrated only",
    "int8": "**int8, trained**",
    "vq_untrained": "VQ, not trained",
    "vq": "**VQ, trained**",
}
STUDENTS = {
    "teacher": "teacher",
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "fake8": "fake 8 bits (R2L-quant's)",
    "int8_ptq": "int8, calibrated only",
    "int8": "**int8, trained**",
}


def load(name: str) -> dict:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())


def machine(facts: dict) -> str:
    """Where and how a benchmark ran, for the line below its table."""
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    return f"{facts['device']}, {threads}, torch {facts['torch']}, {facts['date']}, `{facts['command']}`."


def results_table(names: list[str]) -> str:
    """Quality, bytes and frame time of each model in `metrics.json` files."""
    lines = ["| run | model | PSNR | SSIM | bytes | of float | s/frame |", "|---|---|--:|--:|--:|--:|--:|"]
    notes = []
    for name in names:
        run = load(name)
        models = run["models"]
        for model, label in MODELS.items():
            if model not in models:
                continue
            entry = models[model]
            lines.append(
                f"| {run['expname']} | {label} | {entry['psnr']:.2f} | {entry['ssim']:.4f} | {entry['bytes']:,} | "
                f"{entry['bytes'] / models['float32']['bytes']:.3f} | {entry['seconds_per_frame']:.3f} |"
            )
        notes.append(run_note(run))
    return "\n".join(lines) + "\n\n" + "  \n".join(notes) + "\n"


def quality_table(names: list[str]) -> str:
    """Of `metrics.json` files what does not depend on how busy a machine was."""
    lines = ["| run | views | float32 | int8 | SSIM | bytes |", "|---|--:|--:|--:|--:|--:|"]
    notes = []
    for name in names:
        run = load(name)
        of_float, final = run["models"]["float32"], final_model(run)
        lines.append(
            f"| {run['expname']} | {final['views']} of {final['width']}x{final['height']} | {of_float['psnr']:.2f} | "
            f"**{final['psnr']:.2f}** | {final['ssim']:.4f} | {final['bytes']:,} |"
        )
        notes.append(f"`{run['expname']}`: {run['train']['steps']} steps, {machine(run)}")
    return "\n".join(lines) + "\n\n" + "  \n".join(notes) + "\n"


def runs_by_experiment(results: dict) -> dict[str, list[dict]]:
    """The runs of benchmarks/experiments.py, seeds together."""
    grouped: dict[str, list[dict]] = {}
    for run in results["runs"]:
        grouped.setdefault(run["experiment"], []).append(run)
    return grouped


def final_model(run: dict) -> dict:
    """What a run was after: its quantised model if it has one, else the float one."""
    models = run["models"]
    return next(models[name] for name in ("vq", "ternary", "w4a8", "int8", "float32") if name in models)


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def experiments_table(names: list[str]) -> str:
    """benchmarks/experiments.py: means over seeds, and against the experiment called `base`."""
    results = load(names[0])
    grouped = {name: [final_model(run) for run in runs] for name, runs in runs_by_experiment(results).items()}
    base_psnr, base_bytes = (mean(model[key] for model in grouped["base"]) for key in ("psnr", "bytes"))
    lines = [
        "| experiment | test PSNR | to base | seeds, from to | SSIM | bytes | base / bytes | s/frame |",
        "|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for name, models in grouped.items():
        psnrs = [model["psnr"] for model in models]
        size = mean(model["bytes"] for model in models)
        lines.append(
            f"| {name} | {mean(psnrs):.2f} | {mean(psnrs) - base_psnr:+.2f} | "
            f"{len(models)}: {min(psnrs):.2f} to {max(psnrs):.2f} | {mean(m['ssim'] for m in models):.4f} | "
            f"{size:,.0f} | {base_bytes / size:.1f} | {mean(m['seconds_per_frame'] for m in models):.3f} |"
        )
    one = results["runs"][0]
    size = one["models"]["float32"]
    note = (
        f"Means over seeds, {size['views']} test views of {size['width']}x{size['height']}, each as its file renders; "
        f"{one['train']['steps']} steps each; frames timed one after another when all runs were done; "
        f"{machine(results['facts'])}"
    )
    return "\n".join(lines) + f"\n\n{note}\n"


def ingredients_table(names: list[str]) -> str:
    """benchmarks/mip.py: means over seeds, a group of experiments after another, each against its first."""
    results = load(names[0])
    lines = [
        "| experiment | test PSNR | to the first | seeds, from to | bytes | minutes |",
        "|---|--:|--:|---|--:|--:|",
    ]
    first, group = 0.0, ""
    for name, runs in runs_by_experiment(results).items():
        models = [run["models"]["float32"] for run in runs]
        psnrs = [model["scales"]["mean"]["psnr"] if "scales" in model else model["psnr"] for model in models]
        if name.partition("_")[0] != group:
            first, group = mean(psnrs), name.partition("_")[0]
        minutes = min(run["train"]["seconds"] for run in runs) / 60
        size = mean(model["bytes"] for model in models)
        lines.append(
            f"| {name} | {mean(psnrs):.2f} | {mean(psnrs) - first:+.2f} | "
            f"{len(runs)}: {min(psnrs):.2f} to {max(psnrs):.2f} | {size:,.0f} | {minutes:.1f} |"
        )
    one = results["runs"][0]
    note = (
        f"Float models, means over seeds, at several scales the mean of all; {one['train']['steps']} steps each; "
        f"minutes of training by one thread beside another run, of the fastest seed; {machine(results['facts'])}"
    )
    return "\n".join(lines) + f"\n\n{note}\n"


def scales_table(names: list[str]) -> str:
    """`metrics.json` files of runs at several scales: PSNR at each, and their mean."""
    runs = [load(name) for name in names]
    scales = [scale for scale in runs[0]["models"]["float32"]["scales"] if scale != "mean"]
    sides = [runs[0]["models"]["float32"]["scales"][scale]["width"] for scale in scales]
    lines = [f"| run | model | {' | '.join(f'{side} px' for side in sides)} | mean | bytes |"]
    lines.append("|---|---|" + "--:|" * (len(scales) + 2))
    for run in runs:
        for model, label in MODELS.items():
            if model in run["models"]:
                entry = run["models"][model]
                each = " | ".join(f"{entry['scales'][scale]['psnr']:.2f}" for scale in [*scales, "mean"])
                lines.append(f"| {run['expname']} | {label} | {each} | {entry['bytes']:,} |")
    return "\n".join(lines) + "\n\n" + "  \n".join(run_note(run) for run in runs) + "\n"


def shiny_table(names: list[str]) -> str:
    """`metrics.json` files of a scene whose normals are known."""
    lines = ["| run | PSNR | SSIM | normals off by | bytes | minutes |", "|---|--:|--:|--:|--:|--:|"]
    runs = [load(name) for name in names]
    for run in runs:
        entry = run["models"]["float32"]
        lines.append(
            f"| {run['expname']} | {entry['psnr']:.2f} | {entry['ssim']:.4f} | {entry['normal_degrees']:.1f} degrees | "
            f"{entry['bytes']:,} | {run['train']['seconds'] / 60:.1f} |"
        )
    return "\n".join(lines) + "\n\n" + "  \n".join(run_note(run) for run in runs) + "\n"


def light_field_table(names: list[str]) -> str:
    """`metrics.json` of runs of run_r2l.py: every precision, against the photographs and against the teacher."""
    lines = ["| run | file | PSNR | to its teacher | SSIM | bytes | of float |", "|---|---|--:|--:|--:|--:|--:|"]
    runs = [load(name) for name in names]
    for run in runs:
        models = run["models"]
        for name, label in STUDENTS.items():
            if name in models:
                entry = models[name]
                to_teacher = f"{entry['teacher_psnr']:.2f}" if "teacher_psnr" in entry else ""
                share = "" if name == "teacher" else f"{entry['bytes'] / models['float32']['bytes']:.3f}"
                lines.append(
                    f"| {run['expname']} | {label} | {entry['psnr']:.2f} | {to_teacher} | {entry['ssim']:.4f} | "
                    f"{entry['bytes']:,} | {share} |"
                )
    return "\n".join(lines) + "\n\n" + "  \n".join(run_note(run) for run in runs) + "\n"


def run_note(run: dict) -> str:
    """How a run was trained and measured, in a line."""
    final = final_model(run)
    return (
        f"`{run['expname']}`: {final['views']} views of {final['width']}x{final['height']}, "
        f"{run['train']['steps']} steps in {run['train']['seconds'] / 60:.1f} minutes, the last file by "
        f"{final['backend']}, {machine(run)}"
    )
