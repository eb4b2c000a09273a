"""A mip-NeRF's encodings straight to codes: those of encoding in float and rounding, but for ties."""

import pytest
import torch

from deploy.backends.int8 import Rounding
from deploy.backends.mip import codes_of_waves
from rendering.cones import integrated_encoding


@pytest.mark.parametrize(("directions", "octaves", "q_max"), [(9, 8, 255), (3, 12, 127), (21, 1, 255)])
def test_codes_are_those_of_rounded_waves(directions, octaves, q_max):
    generator = torch.Generator().manual_seed(0)
    mean = 2 * torch.randn(500, directions, generator=generator)
    variance = torch.exp(4 * torch.randn(500, directions, generator=generator) - 8)
    rounding = Rounding(torch.tensor(2.0 / q_max), torch.tensor((q_max + 1) // 2, dtype=torch.uint8), q_max)
    codes = codes_of_waves(mean.T.contiguous(), variance.T.contiguous(), octaves, rounding)
    waves = integrated_encoding(mean.double(), variance.double(), octaves)
    assert codes.shape == waves.shape and codes.dtype == torch.uint8 and codes.is_contiguous()
    wanted = rounding(waves)
    apart = (codes.int() - wanted.int()).abs()
    assert apart.max() <= 1
    exact = waves / float(rounding.scale) + int(rounding.zero_point)
    from_tie = (exact - exact.floor() - 0.5).abs()
    assert (from_tie[apart > 0] < 0.02).all()
    assert apart.float().mean() < 1e-2


def test_no_rows_give_no_codes():
    rounding = Rounding(torch.tensor(0.01), torch.tensor(128, dtype=torch.uint8), 255)
    assert codes_of_waves(torch.zeros(3, 0), torch.zeros(3, 0), 4, rounding).shape == (0, 24)
