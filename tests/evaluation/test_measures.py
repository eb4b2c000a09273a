"""PSNR and SSIM against hand-computed values and invariants; metrics.json and the table."""

import json
import math

import numpy as np
import pytest
import torch

from evaluation.measures import lpips, lpips_missing_reason, psnr, ssim
from evaluation.metrics_file import format_table, write_metrics
from run_nerf_helpers import mse2psnr


def picture(seed: int = 0, size: int = 32) -> torch.Tensor:
    return torch.rand(size, size, 3, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_one_level_off():
    a = torch.zeros(4, 4, 3)
    assert psnr(a, a + 1 / 255) == pytest.approx(20 * math.log10(255), abs=1e-4)
    assert psnr(a, a) == math.inf


def test_psnr_of_training_is_finite_for_what_is_equal():
    assert [float(mse2psnr(torch.tensor(mse))) for mse in (0.0, 1e-30, 0.01)] == pytest.approx([100, 100, 20])
    assert math.isnan(mse2psnr(torch.tensor(math.nan)))


def test_ssim_is_one_for_equal_and_symmetric():
    a, b = picture(0), picture(1)
    assert ssim(a, a) == pytest.approx(1.0)
    assert ssim(a, b) == pytest.approx(ssim(b, a))
    assert ssim(a, b) < 0.2


def test_ssim_of_constant_pictures_is_the_luminance_term():
    a, b = torch.full((16, 16, 3), 0.3), torch.full((16, 16, 3), 0.6)
    c1 = 0.01**2
    assert ssim(a, b) == pytest.approx((2 * 0.3 * 0.6 + c1) / (0.3**2 + 0.6**2 + c1), rel=1e-6)


def test_ssim_of_one_window_by_hand():
    """An 11x11 picture has a single valid window: plain weighted moments in numpy."""
    a, b = picture(2, 11).double().numpy(), picture(3, 11).double().numpy()
    x = np.arange(11) - 5
    w = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    w = (w / w.sum())[..., None]
    ma, mb = (w * a).sum((0, 1)), (w * b).sum((0, 1))
    va, vb = (w * (a - ma) ** 2).sum((0, 1)), (w * (b - mb) ** 2).sum((0, 1))
    cov = (w * (a - ma) * (b - mb)).sum((0, 1))
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()
    assert ssim(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, rel=1e-9)


def test_ssim_of_a_picture_below_the_window_is_none():
    assert ssim(picture(0, 10), picture(1, 10)) is None


def test_lpips_is_a_number_or_none_with_a_reason():
    value = lpips(picture(0, 64), picture(0, 64))
    assert (value is None) == bool(lpips_missing_reason())
    assert value is None or value == pytest.approx(0.0, abs=1e-6)


def entry(**changes) -> dict:
    return {"psnr": 30.5, "ssim": 0.95, "lpips": None, "bytes": 1000, "seconds_per_frame": 0.25} | changes


def test_metrics_json_is_strict_json(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(path, {"expname": "x"}, {"steps": 3}, {"float32": entry(psnr=math.inf, ssim=math.nan)})
    content = json.loads(path.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert content["models"]["float32"]["psnr"] is None and content["train"]["steps"] == 3


def test_table_has_the_ratio_to_float():
    table = format_table({"float32": entry(), "int8": entry(bytes=254), "fake_quant": entry(bytes=None)})
    assert "0.254" in table and "30.50" in table and table.count("\n") == 4
