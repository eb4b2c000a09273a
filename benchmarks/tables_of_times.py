"""Tables of what benchmarks measured of steps, frames, memory and files."""

from tables_of_runs import STUDENTS, load, machine


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


def page_times(entry: dict, on_gpu: float | None) -> str:
    """The last cells of a row: size of a picture, and by what in how long."""
    times = (entry["seconds"], on_gpu, entry["python_seconds"])
    cells = ["" if seconds is None else f"{1e3 * seconds:.0f} ms" for seconds in times]
    return f"{entry['width']}x{entry['height']} | {' | '.join(cells)} |"


def web_page_table(names: list[str]) -> str:
    """benchmarks/web_page.py: pages of model files in a browser, beside the same files in Python."""
    run = load(names[0])
    lines = [
        "| file | bytes | page | first picture | off by at most | PSNR | dragged | picture | WebAssembly | WebGPU "
        "| Python |",
        "|---|--:|--:|--:|--:|--:|---|---|--:|--:|--:|",
    ]
    for name, entry in run["files"].items():
        count = entry["pixels_beyond_2"]
        beyond = f" ({count} pixel{'s' * (count > 1)} by more than 2)" if count else ""
        same = "the same" if entry["psnr_to_reference"] is None else f"{entry['psnr_to_reference']:.1f} dB"
        gpu, large = entry.get("webgpu", {}), entry["large"]
        lines.append(
            f"| {name} | {entry['bytes']:,} | {entry['page_bytes']:,} | {entry['first_seconds']:.2f} s | "
            f"{entry['largest_difference']}/255{beyond} | {same} | {entry['dragged_frames_per_second']:.0f} a second, "
            f"{entry['dragged_size']} | {page_times(entry, gpu.get('seconds'))}"
        )
        lines.append(f"| | | | | | | | {page_times(large, gpu.get('large_seconds'))}")
    entries = run["files"].values()
    engines = [entry["engine"] for entry in entries] + [e["webgpu"]["engine"] for e in entries if "webgpu" in e]
    engines = ", ".join(dict.fromkeys(engines))
    return "\n".join(lines) + f"\n\n{run['browser']}, {engines}; {machine(run['facts'])}\n"


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
