"""Writes the tables of README.md and docs/*.md from the measurements in docs/results.

python benchmarks/tables.py [--check]

A table stands between `<!-- results NAME... -->` and `<!-- end -->`, one row a model of each named
file. With --check nothing is written; the exit status is 1 where a table is out of date.
"""

import json
import re
import statistics
import sys
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


def speed_table(names: list[str]) -> str:
    """The frame times of benchmarks/render_vs_nerf_pytorch.py."""
    run = load(names[0])
    labels = {
        "nerf_pytorch": "nerf-pytorch `render`",
        "ours_without_skipping": "ours, nothing skipped",
        "ours": "ours, float32",
        "ours_int8": "**ours, int8**",
    }
    lines = ["| renderer | s/frame | PSNR | network queries |", "|---|--:|--:|--:|"]
    for name, label in labels.items():
        entry = run[name]
        lines.append(f"| {label} | {entry['median_seconds']:.3f} | {entry['psnr']:.2f} | {entry['queries']:,.0f} |")
    height, width = run["picture"]
    note = (
        f"{run['speedup']:.0f} times faster, {run['speedup_int8']:.0f} in int8; "
        f"skipping costs {run['psnr_lost_by_skipping']:.3f} dB. "
        f"Median over {run['views']} views of {width}x{height}, {machine(run['facts'])}"
    )
    return "\n".join(lines) + "\n\n" + note + "\n"


def frames_table(names: list[str]) -> str:
    """benchmarks/render.py: whole frames by number type and backend."""
    run = load(names[0])
    lines = ["| picture | network | s/frame | times fp32 | PSNR |", "|---|---|--:|--:|--:|"]
    for picture in run["pictures"]:
        for name, entry in picture["variants"].items():
            lines.append(
                f"| {picture['width']}x{picture['height']} | {name} | {entry['median_seconds']:.3f} | "
                f"{entry['times_fp32']:.2f} | {entry['psnr']:.2f} |"
            )
    return "\n".join(lines) + f"\n\nMedian over {run['views']} views, {machine(run['facts'])}\n"


def mlp_table(names: list[str]) -> str:
    """benchmarks/int8_mlp.py: rates of the network alone."""
    run = load(names[0])
    lines = ["| rows, layers x width | variant | TOP/s | times fp32 | of peak |", "|---|---|--:|--:|--:|"]
    for size in run["sizes"]:
        base = size["tops"]["fp32 eager"]["median"]
        for name, rate in size["tops"].items():
            share = rate["median"] / run["one_large_product_tops"][name.split()[0]]
            lines.append(
                f"| {size['rows']:,}, {size['depth']}x{size['width']} | {name} | {rate['median']:.3f} | "
                f"{rate['median'] / base:.1f} | {share:.0%} |"
            )
    flags = ", ".join(run["facts"]["cpu_flags"])
    note = f"Peak: one large product of the same type in the same run. CPU with {flags}; {machine(run['facts'])}"
    return "\n".join(lines) + f"\n\n{note}\n"


def steps_table(names: list[str]) -> str:
    """benchmarks/train_step.py: what fake quantisation adds to a step."""
    run = load(names[0])
    parts = list(run["float"]["share"])
    lines = [f"| training step | ms | times float | {' | '.join(parts)} |", "|---|--:|--:|" + "--:|" * len(parts)]
    labels = {"float": "float", "qat": "fake quantisation, ranges observed", "qat_frozen": "ranges frozen"}
    labels |= {f"{name}_compiled": f"{label}, `--compile`" for name, label in labels.items()}
    for name, label in labels.items():
        shares = " | ".join(f"{run[name]['share'][part]:.0%}" for part in parts)
        lines.append(f"| {label} | {run[name]['median_ms']:.1f} | {run[name]['of_float']:.2f} | {shares} |")
    note = f"{run['samples_per_batch']:,} network queries a step, {machine(run['facts'])}"
    return "\n".join(lines) + f"\n\n{note}\n"


def field_table(names: list[str]) -> str:
    """benchmarks/field.py: whole fields, encodings and heads included."""
    lines = ["| field | ms | times bf16 compiled |", "|---|--:|--:|"]
    run = load(names[0])
    for name, entry in run["variants"].items():
        lines.append(f"| {name} | {1e3 * entry['median_seconds']:.1f} | {entry['times_bf16_compiled']:.2f} |")
    size = f"{run['samples']:,} samples through {run['depth']}x{run['width']}"
    return "\n".join(lines) + f"\n\n{size}, {machine(run['facts'])}\n"


def memory_table(names: list[str]) -> str:
    """benchmarks/memory.py: what a large picture takes."""
    run = load(names[0])
    lines = ["| model | picture | MiB above | MiB loaded | seconds |", "|---|---|--:|--:|--:|"]
    for entry in run["models"]:
        depth, width = entry["network"]
        lines.append(
            f"| {entry['precision']} {depth}x{width} | {entry['width']}x{entry['height']} | "
            f"{entry['bytes_above'] / 2**20:.0f} | {entry['bytes_loaded'] / 2**20:.0f} | {entry['seconds']:.1f} |"
        )
    return "\n".join(lines) + f"\n\nUnder a budget of {run['budget'] / 2**20:.0f} MiB, {machine(run['facts'])}\n"


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


STUDENTS = {
    "teacher": "teacher",
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "fake8": "fake 8 bits (R2L-quant's)",
    "int8_ptq": "int8, calibrated only",
    "int8": "**int8, trained**",
}


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


def light_field_frames_table(names: list[str]) -> str:
    """benchmarks/light_field.py: frames of a light field and its teacher, side by side."""
    run = load(names[0])
    bases = {
        "teacher_float32": "teacher's float32",
        "teacher_int8": "its int8",
        "nerf_pytorch": "nerf-pytorch's queries",
    }
    faster = " | ".join(f"times {base}" for base in bases.values())
    lines = [
        f"| picture | file | parameters | MFLOP a ray | s/frame | {faster} |",
        "|---|---|--:|--:|--:|" + "--:|" * len(bases),
    ]
    labels = STUDENTS | {"teacher_float32": "teacher, float32", "teacher_int8": "teacher, int8"}
    for picture in run["pictures"]:
        rays = picture["width"] * picture["height"]
        for name, entry in picture["files"].items():
            file = run["files"][name]
            flops = file["flops_per_query"] * entry["queries"] / rays / 1e6
            times = " | ".join(f"{entry['times'][base]:,.1f}" for base in bases)
            lines.append(
                f"| {picture['width']}x{picture['height']} | {labels[name]} | {file['parameters']:,} | {flops:.2f} | "
                f"{entry['median_seconds']:.4f} | {times} |"
            )
    note = f"{run['views']} test views in turn, {machine(run['facts'])}"
    return "\n".join(lines) + f"\n\n{note}\n"


def web_page_table(names: list[str]) -> str:
    """benchmarks/web_page.py: pages of model files in a browser, beside the same files in Python."""
    run = load(names[0])
    lines = [
        "| file | bytes | page | first picture | picture | WebAssembly | WebGPU | Python | off by at most | PSNR "
        "| dragged |",
        "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|---|",
    ]
    for name, entry in run["files"].items():
        beyond = f" ({entry['pixels_beyond_2']} pixels by more than 2)" if entry["pixels_beyond_2"] else ""
        same = "the same" if entry["psnr_to_reference"] is None else f"{entry['psnr_to_reference']:.1f} dB"
        on_gpu = f"{1e3 * entry['webgpu']['seconds']:.0f} ms" if "webgpu" in entry else ""
        lines.append(
            f"| {name} | {entry['bytes']:,} | {entry['page_bytes']:,} | {entry['first_seconds']:.2f} s | "
            f"{entry['width']}x{entry['height']} | {1e3 * entry['seconds']:.0f} ms | {on_gpu} | "
            f"{1e3 * entry['python_seconds']:.0f} ms | {entry['largest_difference']}/255{beyond} | {same} | "
            f"{entry['dragged_frames_per_second']:.0f} a second, {entry['dragged_size']} |"
        )
    entries = run["files"].values()
    engines = [entry["engine"] for entry in entries] + [e["webgpu"]["engine"] for e in entries if "webgpu" in e]
    engines = ", ".join(dict.fromkeys(engines))
    return "\n".join(lines) + f"\n\n{run['browser']}, {engines}; {machine(run['facts'])}\n"


def run_note(run: dict) -> str:
    """How a run was trained and measured, in a line."""
    final = final_model(run)
    return (
        f"`{run['expname']}`: {final['views']} views of {final['width']}x{final['height']}, "
        f"{run['train']['steps']} steps in {run['train']['seconds'] / 60:.1f} minutes, the last file by "
        f"{final['backend']}, {machine(run)}"
    )


def step_times_table(names: list[str]) -> str:
    """benchmarks/step_times.py: what a step of each experiment takes."""
    run = load(names[0])
    lines = ["| step of | network queries | ms | times base |", "|---|--:|--:|--:|"]
    for name, entry in run["experiments"].items():
        lines.append(f"| {name} | {entry['queries']:,} | {entry['median_ms']:.0f} | {entry['of_base']:.2f} |")
    return "\n".join(lines) + f"\n\nTaken in turn in one process, {machine(run['facts'])}\n"


def rate_table(names: list[str]) -> str:
    """benchmarks/vq_rate_distortion.py: one field as float32 and as files of several sizes."""
    run = load(names[0])
    half = run["float"]["bytes"] / 2
    lines = ["| file | PSNR | SSIM | bytes | times smaller than float16 |", "|---|--:|--:|--:|--:|"]
    files = {name: entry for name, entry in run.items() if name != "facts"}
    for name, entry in sorted(files.items(), key=lambda file: -file[1]["bytes"]):
        label = {"float": "float32", "original": "VQ-TensoRF's released recipe"}.get(name, f"`--target_bytes {name}`")
        quality = f"{entry['psnr']:.2f} | {entry['ssim']:.4f}"
        lines.append(f"| {label} | {quality} | {entry['bytes']:,} | {half / entry['bytes']:.1f} |")
    one, times = run["float"], run["original"]["times_ours_at_its_psnr"]
    note = f"{one['views']} test views of {one['width']}x{one['height']}, {machine(run['facts'])}"
    if times:
        note = f"The recipe's file has {times:.1f} times the bytes that ours have at its PSNR (interpolated). {note}"
    return "\n".join(lines) + f"\n\n{note}\n"


def tensorf_table(names: list[str]) -> str:
    """benchmarks/tensorf_step.py: our training step beside the original code's."""
    run = load(names[0])
    labels = {
        "ours": "**ours**",
        "original_with_mask": "TensoRF's code, with its mask",
        "original_without_mask": "TensoRF's code, before its first mask",
    }
    lines = ["| training step | ms | times ours |", "|---|--:|--:|"]
    for name, label in labels.items():
        lines.append(f"| {label} | {run[name]['median_ms']:.0f} | {run[name]['of_ours']:.2f} |")
    note = f"{run['rays']} rays, after {run['warmup']} steps of ours, {machine(run['facts'])}"
    return "\n".join(lines) + f"\n\n{note}\n"


MAKERS = {
    "rate": rate_table,
    "tensorf": tensorf_table,
    "results": results_table,
    "speed": speed_table,
    "frames": frames_table,
    "mlp": mlp_table,
    "steps": steps_table,
    "memory": memory_table,
    "field": field_table,
    "experiments": experiments_table,
    "step_times": step_times_table,
    "ingredients": ingredients_table,
    "scales": scales_table,
    "shiny": shiny_table,
    "light_field": light_field_table,
    "light_field_frames": light_field_frames_table,
    "web_page": web_page_table,
    "quality": quality_table,
}
BLOCK = re.compile(rf"(<!-- ({'|'.join(MAKERS)}) ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    out_of_date = 0
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = page.read_text()
        new = BLOCK.sub(lambda m: m[1] + MAKERS[m[2]](m[3].split()) + m[4], old)
        out_of_date += new != old
        if "--check" not in sys.argv:
            page.write_text(new)
    return int("--check" in sys.argv and out_of_date > 0)


if __name__ == "__main__":
    sys.exit(main())
