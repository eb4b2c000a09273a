"""Encodings, networks, rays and sampling against closed forms and nerf-pytorch's conventions."""

import math

import pytest
import torch

from fields.nerf import FieldConfig, make_field
from rendering.points import Points
from run_nerf_helpers import NeRF, NeRF_qat, get_embedder, get_rays, img2mse, mse2psnr, ndc_rays, sample_pdf, to8b
from scenes.poses import look_at
from scenes.scene import pinhole


def test_psnr_of_a_known_error():
    assert float(mse2psnr(img2mse(torch.full((4,), 0.6), torch.full((4,), 0.5)))) == pytest.approx(20.0, abs=1e-4)


def test_to8b_rounds_to_nearest_and_clips():
    assert to8b(torch.tensor([-1.0, 0.0, 0.4981, 0.5, 1.0, 3.0])).tolist() == [0, 0, 127, 128, 255, 255]


def test_encoding_order_and_values():
    embed, width = get_embedder(3)
    x = torch.tensor([[0.3, -0.2, 0.7]])
    assert width == 21
    expected = [x]
    for frequency in (1, 2, 4):  # no pi, sin before cos, octave after octave
        expected += [torch.sin(frequency * x), torch.cos(frequency * x)]
    torch.testing.assert_close(embed(x), torch.cat(expected, -1))


def test_encoding_can_be_switched_off():
    embed, width = get_embedder(10, -1)
    x = torch.rand(5, 3)
    assert width == 3 and torch.equal(embed(x), x)


# Names, shapes and order as in nerf-pytorch's checkpoints (8x256, 63 + 27 inputs, skip after 4).
NERF_PYTORCH_KEYS = {
    **{f"pts_linears.{i}.weight": (256, {0: 63, 5: 319}.get(i, 256)) for i in range(8)},
    "views_linears.0.weight": (128, 283),
    "feature_linear.weight": (256, 256),
    "alpha_linear.weight": (1, 256),
    "rgb_linear.weight": (3, 128),
}


@pytest.mark.parametrize("network", [NeRF, NeRF_qat])
def test_state_dict_is_nerf_pytorchs(network):
    state = FieldConfig().make_network(network).state_dict()
    assert {key: tuple(v.shape) for key, v in state.items() if key.endswith("weight")} == NERF_PYTORCH_KEYS
    order = [key for key in state if key.endswith("weight")]
    assert order == list(NERF_PYTORCH_KEYS)


def test_parameter_count_of_the_paper():
    # 63*256+256 + 6*(256*256+256) + 319*256+256 + 257 + 65792 + 283*128+128 + 128*3+3, by hand
    assert sum(p.numel() for p in FieldConfig().make_network().parameters()) == 595_844


@pytest.mark.parametrize("use_viewdirs, residual", [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("depth", [2, 5, 8])
def test_qat_network_before_preparation_is_the_float_network(use_viewdirs, residual, depth):
    config = FieldConfig(depth=depth, width=16, use_viewdirs=use_viewdirs, residual=residual)
    plain, qat = config.make_network(NeRF), config.make_network(NeRF_qat)
    qat.load_state_dict(plain.state_dict())
    x = torch.randn(7, config.input_ch + config.input_ch_views)
    torch.testing.assert_close(qat(x), plain(x), rtol=0, atol=0)
    pts = x[:, : config.input_ch]
    torch.testing.assert_close(plain.raw_density(pts), plain(x)[:, 3])
    torch.testing.assert_close(qat.raw_density(pts), plain(x)[:, 3])


def test_residual_layers_add_what_they_were_given():
    network = NeRF(D=4, W=2, input_ch=3, skips=(1,), residual=True)
    with torch.no_grad():
        for layer in network.pts_linears:
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor([0.5, -1.0]))  # each layer says (0.5, 0) whatever it is given
    # The first has nothing of its width to add to; after the skip only the 2 features are added, not the 3 inputs.
    assert network.trunk(torch.tensor([[7.0, 8.0, 9.0]])).tolist() == [[2.0, 0.0]]


def test_field_activations():
    config = FieldConfig(depth=2, width=8, density_activation="softplus", density_bias=-1.0, density_scale=25.0)
    field = make_field(config)
    assert float(field.activate_density(torch.tensor(1.0))) == pytest.approx(25 * math.log(2))
    density, rgb, _ = field(Points(torch.randn(9, 3), torch.nn.functional.normalize(torch.randn(9, 3), dim=-1)))
    assert density.shape == (9,) and (density >= 0).all()
    assert rgb.shape == (9, 3) and (rgb > 0).all() and (rgb < 1).all()


def test_field_density_agrees_with_forward():
    field = make_field(FieldConfig(depth=3, width=8))
    positions = torch.randn(11, 3)
    points = Points(positions, torch.nn.functional.normalize(torch.randn(11, 3), dim=-1))
    torch.testing.assert_close(field.density(positions), field(points).density)


def test_rays_pass_through_pixel_centres_and_look_along_minus_z():
    c2w = torch.eye(4)[:3]
    origins, directions = get_rays(4, 6, pinhole(3.0, 4, 6), c2w)
    assert origins.shape == directions.shape == (4, 6, 3)
    torch.testing.assert_close(directions[0, 0], torch.tensor([-2.5 / 3, 1.5 / 3, -1.0]))
    torch.testing.assert_close(directions[3, 5], torch.tensor([2.5 / 3, -1.5 / 3, -1.0]))
    _, corners = get_rays(4, 6, pinhole(3.0, 4, 6), c2w, pixel_offset=0.0)
    torch.testing.assert_close(corners[2, 3], torch.tensor([0.0, 0.0, -1.0]))


def test_a_camera_that_looks_at_a_point_has_it_in_the_middle():
    eye, target = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.2, 0.1, -0.3])
    c2w = torch.tensor(look_at(eye.numpy().astype(float), target.numpy().astype(float))).float()
    _, directions = get_rays(5, 5, pinhole(7.0, 5, 5), c2w)
    torch.testing.assert_close(
        torch.nn.functional.normalize(directions[2, 2], dim=-1),
        torch.nn.functional.normalize(target - eye, dim=-1),
    )


def test_ndc_agrees_with_projecting_points():
    """A point at t along the NDC ray is the projection of a world point on the world ray."""
    H, W, focal, near = 10, 14, 8.0, 1.0
    o = torch.tensor([[0.1, -0.2, 0.3]])
    d = torch.tensor([[0.2, 0.1, -1.0]])
    ndc_o, ndc_d = ndc_rays(H, W, focal, near, o, d)
    for depth in (1.5, 4.0, 50.0):
        point = o + d * ((depth + o[:, 2:]) / -d[:, 2:])  # where z = -depth
        x, y, z = point[0].tolist()
        expected = torch.tensor([[-2 * focal / W * x / z, -2 * focal / H * y / z, 1 + 2 * near / z]])
        t = (expected[0, 2] - ndc_o[0, 2]) / ndc_d[0, 2]
        torch.testing.assert_close(ndc_o + t * ndc_d, expected)
        assert float(t) == pytest.approx(1 - near / depth, abs=1e-5)


def test_sample_pdf_of_a_single_bin_is_uniform_in_it():
    bins = torch.linspace(0, 1, 6).expand(2000, 6)
    weights = torch.zeros(2000, 5)
    weights[:, 3] = 1.0
    t = sample_pdf(bins, weights, 16, generator=torch.Generator().manual_seed(0))
    inside = t[(t > 0.6) & (t < 0.8)]
    assert len(inside) / t.numel() > 0.999
    assert float(inside.mean()) == pytest.approx(0.7, abs=1e-3)
    assert float(inside.var()) == pytest.approx(0.2**2 / 12, rel=0.02)


def test_sample_pdf_follows_the_weights():
    bins = torch.tensor([0.0, 1.0, 3.0, 4.0]).expand(4000, 4)
    weights = torch.tensor([0.2, 0.5, 0.3]).expand(4000, 3)
    t = sample_pdf(bins, weights, 32, generator=torch.Generator().manual_seed(1))
    shares = [float(((t >= a) & (t < b)).float().mean()) for a, b in ((0, 1), (1, 3), (3, 4))]
    assert shares == pytest.approx([0.2, 0.5, 0.3], abs=5e-3)


def test_deterministic_sample_pdf_gives_the_quantiles():
    bins = torch.linspace(0, 1, 5)[None]
    t = sample_pdf(bins, torch.ones(1, 4), 5, det=True)
    torch.testing.assert_close(t, torch.linspace(0, 1, 5)[None], atol=1e-5, rtol=0)


def test_sample_pdf_of_nothing_is_uniform_not_nan():
    t = sample_pdf(torch.linspace(2, 6, 9)[None], torch.zeros(1, 8), 64, det=True)
    assert torch.isfinite(t).all() and float(t.mean()) == pytest.approx(4.0, abs=1e-3)
