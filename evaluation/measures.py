"""PSNR, SSIM and LPIPS of pictures."""

import contextlib
import functools
import io
import math

import torch
import torch.nn.functional as F

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
