"""Image measures, `metrics.json`, and the closing table."""

import contextlib
import datetime
import functools
import hashlib
import io
import math
import platform
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from utils.files import write_json

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5


def psnr(image: torch.Tensor, target: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images in [0, 1]; infinite where they are equal."""
    mse = float(((image.double() - target.double()) ** 2).mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)


def ssim(image: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None) -> float | None:
    """Structural similarity (Wang et al. 2004) of `[H, W, 3]` images in [0, 1].

    11x11 Gaussian of sigma 1.5, valid padding, mean over pixels and channels: the NerfBaselines
    protocol. valid: bool `[H, W]`; only windows that hold no other pixel count.
    None where no window fits.
    """
    if min(image.shape[:2]) < SSIM_WINDOW:
        return None
    x = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    kernel = torch.exp(-0.5 * (x / SSIM_SIGMA) ** 2)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2

    def blur(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(values, kernel[None, None])

    a, b = (i.double().cpu().permute(2, 0, 1)[:, None] for i in (image, target))
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    similarity = luminance * structure
    if valid is not None:
        spoilt = F.max_pool2d((~valid.cpu())[None, None].double(), SSIM_WINDOW, stride=1)[0, 0] > 0
        similarity = similarity[:, :, ~spoilt]
    return float(similarity.mean()) if similarity.numel() else None


@functools.cache
def _lpips_model() -> tuple[torch.nn.Module | None, str]:
    """LPIPS (VGG) and an empty string, or None and the reason why it cannot be had."""
    try:
        import lpips  # brings torchvision, which may be absent, broken, or lack its weights

        with contextlib.redirect_stdout(io.StringIO()):
            return lpips.LPIPS(net="vgg", verbose=False).eval(), ""
    except Exception as error:  # ImportError, RuntimeError (torchvision), URLError (weights)
        return None, f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"


def lpips(image: torch.Tensor, target: torch.Tensor) -> float | None:
    """Perceptual distance (Zhang et al. 2018, VGG) of `[H, W, 3]` images in [0, 1], or None."""
    model, _ = _lpips_model()
    if model is None:
        return None
    with torch.no_grad():
        a, b = (i.float().cpu().permute(2, 0, 1)[None] * 2 - 1 for i in (image, target))
        return float(model(a, b))


def lpips_missing_reason() -> str:
    """Why `lpips` returns None; empty where it works."""
    return _lpips_model()[1]


# --------------------------------------------------------------------------------- metrics.json


def git_commit() -> str | None:
    """The commit of the code that runs, with `+` where files differ from it; None outside git."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def run_facts(expname: str, config: str | None, device: torch.device) -> dict:
    """The part of `metrics.json` that says what ran where."""
    try:
        content = Path(config).read_bytes() if config else b""
    except OSError:  # gone since the run began
        content = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "expname": expname,
        "command": " ".join([Path(sys.argv[0]).name, *map(_without_home, sys.argv[1:])]),
        "date": datetime.date.today().isoformat(),
        "config": _without_home(config) if config else None,
        "config_sha256": None if content is None else hashlib.sha256(content).hexdigest(),
        "git_commit": git_commit(),
        "device": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _without_home(word: str) -> str:
    """An absolute path as its last part only: where someone's files lie is nobody's business."""
    return f".../{Path(word).name}" if Path(word).is_absolute() else word


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"CPU {line.split(':', 1)[1].strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"CPU {platform.processor() or platform.machine()}"


def write_metrics(path: Path, facts: dict, train: dict, models: dict[str, dict]) -> None:
    """Writes `metrics.json` whole or not at all. NaN and infinity become null."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [clean(entry) for entry in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_json(path, clean({**facts, "train": train, "models": models}))


def format_table(models: dict[str, dict]) -> str:
    """The models of a run, a line each: quality, bytes, time, and bytes relative to float32."""
    header = f"{'model':<16}{'PSNR dB':>9}{'SSIM':>8}{'LPIPS':>8}{'bytes':>12}{'of float':>10}{'s/frame':>10}"
    lines = [header, "-" * len(header)]
    reference = models.get("float32", {}).get("bytes")
    for name, entry in models.items():
        size = entry.get("bytes")
        ratio = f"{size / reference:.3f}" if size and reference else "-"
        lines.append(
            f"{name:<16}{_number(entry['psnr'], 2):>9}{_number(entry['ssim'], 4):>8}{_number(entry['lpips'], 4):>8}"
            f"{size if size else '-':>12}{ratio:>10}{_number(entry['seconds_per_frame'], 3):>10}"
        )
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
