"""TensoRF: look-ups against grid_sample and dense tensors, exact changes of resolution, regularisers by hand."""

import json

import pytest
import torch
import torch.nn.functional as F
from helpers import TENSOR_BOX, TINY, fails_cleanly, points_in_box, run
from hypothesis import given, settings
from hypothesis import strategies as st

import run_nerf
from deploy.model_file import load_renderer
from fields.tensorf import (
    TensorfConfig,
    TensorField,
    bilinear_corners,
    density_l1,
    linear_corners,
    look_up,
    resolution_for,
    total_variation,
)
from training.checkpoints import load_newest

SMALL = {"density_ranks": (2, 3, 1), "color_ranks": (3, 2, 4), "features": 5, "hidden": 8}


def make(decomposition: str = "vm", resolution=(5, 4, 6)) -> TensorField:
    torch.manual_seed(0)
    config = TensorfConfig(decomposition, **SMALL)
    return TensorField(config, config.make_network(resolution, TENSOR_BOX))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31))
def test_look_up_and_its_gradient_are_grid_samples(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(30, 2, generator=generator)
    table = torch.randn(rows, columns, 3, generator=generator, requires_grad=True)
    corners = bilinear_corners(unit[:, 0] * (columns - 1), unit[:, 1] * (rows - 1), rows, columns)
    ours = look_up(table, *corners)
    theirs = F.grid_sample(table.permute(2, 0, 1)[None], 2 * unit[None, None] - 1, align_corners=True)[0, :, 0].T
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    factor = torch.randn(30, 3, generator=generator)
    for mine, other in zip(
        torch.autograd.grad((ours * factor).sum(), table), torch.autograd.grad((theirs * factor).sum(), table),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_a_line_by_hand():
    line = torch.tensor([[0.0], [10.0], [30.0]])
    values = look_up(line, *linear_corners(torch.tensor([0.0, 0.25, 1.5, 2.0, 9.0]), 3))
    assert values[:, 0].tolist() == [0.0, 2.5, 20.0, 30.0, 30.0]


def test_vm_is_the_sum_of_planes_times_lines():
    """At the entries themselves, against the dense tensors of eq. 4."""
    network = make().network
    x, y, z = torch.meshgrid(*(torch.arange(n) for n in network.resolution), indexing="ij")
    at = torch.stack([x, y, z]).view(3, -1).float()
    density, color = network.products(at)
    xy, xz, yz = (plane[..., :rank] for plane, rank in zip(network.planes, SMALL["density_ranks"], strict=True))
    of_z, of_y, of_x = (line[:, :rank] for line, rank in zip(network.lines, SMALL["density_ranks"], strict=True))
    dense = torch.einsum("yxr,zr->xyz", xy, of_z) + torch.einsum("zxr,yr->xyz", xz, of_y)
    dense = dense + torch.einsum("zyr,xr->xyz", yz, of_x)
    torch.testing.assert_close(density, dense.reshape(-1))
    of_xy = torch.einsum("yxr,zr->xyzr", network.planes[0][..., 2:], network.lines[0][:, 2:])
    torch.testing.assert_close(color[:, :3], of_xy.reshape(-1, 3))
    assert color.shape == (at.shape[1], sum(SMALL["color_ranks"]))


def test_cp_is_the_product_of_three_lines():
    network = make("cp").network
    density, color = network.products(torch.tensor([[1.0], [2.0], [3.0]]))
    product = network.lines[0][1] * network.lines[1][2] * network.lines[2][3]
    torch.testing.assert_close(density[0], product[:6].sum())
    torch.testing.assert_close(color[0], product[6:])


@pytest.mark.parametrize("decomposition", ["vm", "cp"])
def test_upsampling_between_entries_keeps_the_field(decomposition):
    field, points = make(decomposition), points_in_box()
    before = field(points)[:2]
    field.network.upsample((9, 7, 11))  # 2n - 1: every old entry stays one
    assert field.network.resolution == (9, 7, 11)
    for value, expected in zip(field(points)[:2], before, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decomposition", ["vm", "cp"])
def test_cropping_keeps_the_field_inside(decomposition):
    field = make(decomposition, (9, 9, 9))
    box = torch.tensor([[-0.6, -0.5, 0.8], [0.3, 1.0, 2.0]])
    points = points_in_box(box=box)
    before = field(points)[:2]
    field.network.crop(box)
    assert field.network.resolution == (6, 7, 5)  # cells of 0.25, 0.25, 0.375: -0.75..0.5, -0.5..1.0, 0.75..2.25
    torch.testing.assert_close(field.network.aabb, torch.tensor([[-0.75, -0.5, 0.75], [0.5, 1.0, 2.25]]))
    for value, expected in zip(field(points)[:2], before, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_outside_the_box_is_empty():
    field = make()
    outside = torch.tensor([[1.01, 0.0, 1.0], [0.0, -0.51, 1.0], [0.0, 0.0, 3.1], [float("inf"), 0.0, 0.0]])
    assert field.density(outside).tolist() == [0, 0, 0, 0]
    assert field.density(torch.zeros(1, 3)) > 0


def test_density_agrees_with_forward():
    field, points = make(), points_in_box()
    torch.testing.assert_close(field.density(points.positions), field(points).density)


def test_loading_takes_on_another_resolution():
    trained, field = make(resolution=(9, 7, 11)), make()
    kept = list(field.parameters())
    field.network.load_state_dict(trained.network.state_dict())
    assert all(a is b for a, b in zip(kept, field.parameters(), strict=True))  # an optimiser may hold them
    for value, expected in zip(field(points_in_box())[:2], trained(points_in_box())[:2], strict=True):
        torch.testing.assert_close(value, expected)


def test_other_ranks_do_not_load():
    config = TensorfConfig(density_ranks=(2, 2, 2), color_ranks=(3, 2, 4), features=5, hidden=8)
    with pytest.raises(RuntimeError, match="size mismatch"):
        make().network.load_state_dict(config.make_network((5, 4, 6), TENSOR_BOX).state_dict())


def test_regularisers_by_hand():
    network = make().network
    with torch.no_grad():
        for factor in network.factors():
            factor.fill_(-0.5)
    assert density_l1(network).item() == pytest.approx(6 * 0.5)
    assert [v.item() for v in total_variation(network.planes, network.config.density_ranks)] == [0, 0]
    with torch.no_grad():  # channel 0 is density; 4 rows of 5: rising by 2 from row to row
        network.planes[0][..., 0] = 2 * torch.arange(4.0)[:, None]
    density, color = total_variation(network.planes, network.config.density_ranks)
    assert density.item() == pytest.approx(4 / 2) and color.item() == 0  # the mean over both density channels


def test_resolution_has_cubic_cells():
    assert resolution_for(128**3, torch.tensor([[-1.5] * 3, [1.5] * 3])) == (128, 128, 128)
    assert resolution_for(1000, torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]])) == (5, 10, 20)


# ------------------------------------------------------------------------------------- whole runs

TENSOR = [
    *TINY, "--field", "tensorf", "--optimizer", "adam", "--lrate", "0.02", "--lrate_decay", "0.3", "--amp", "off",
    "--density_activation", "softplus", "--density_bias", "-6", "--density_scale", "25", "--voxels", "4096",
    "--voxels_final", "20000", "--upsample_steps", "60", "100", "--shrink_step", "80", "--density_ranks", "4", "4", "4",
    "--color_ranks", "6", "6", "6", "--decoder_width", "32", "--tv_weight", "0.001", "0.0001", "--i_weights", "50",
    "--grid_start", "60",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorf")
    assert run(run_nerf, *TENSOR, "--N_iters", "200", "--basedir", folder, "--expname", "vm") == 0
    return folder / "vm"


def test_a_whole_run_learns_grows_and_its_file_renders_the_same(trained):
    entry = json.loads((trained / "metrics.json").read_text())["models"]["float32"]
    assert entry["psnr"] > 20
    renderer, _, metadata = load_renderer(trained / "model_float32.safetensors", torch.device("cpu"))
    assert metadata["fields"]["network_fn"]["kind"] == "tensorf"
    assert 12_000 < torch.tensor(renderer.field.network.resolution).prod() <= 20_000
    state = load_newest(trained)[1]["network_fn_state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in renderer.field.network.state_dict().items())


def test_resume_across_growth_is_bit_for_bit(trained, tmp_path):
    flags = [*TENSOR, "--basedir", tmp_path, "--expname", "parts"]
    assert run(run_nerf, *flags, "--N_iters", "200") == 0
    for step in (200, 150, 100):
        (tmp_path / "parts" / f"{step:06d}.tar").unlink()
    assert run(run_nerf, *flags, "--N_iters", "200") == 0  # from step 50, before anything has grown
    (tmp_path / "parts" / "000200.tar").unlink()
    assert run(run_nerf, *flags, "--N_iters", "200") == 0  # from step 150, after
    whole, parts = (load_newest(folder)[1]["network_fn_state_dict"] for folder in (trained, tmp_path / "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_cp_trains_too(tmp_path):
    flags = ["--tensor", "cp", "--N_iters", "150", "--basedir", tmp_path, "--expname", "cp", "--voxels", "20000"]
    assert run(run_nerf, *TENSOR, *flags, "--density_ranks", "8", "8", "8") == 0
    assert json.loads((tmp_path / "cp" / "metrics.json").read_text())["models"]["float32"]["psnr"] > 16


def test_what_a_tensor_field_cannot_be_is_said(tmp_path, capsys):
    flags = [*TENSOR, "--basedir", tmp_path]
    fails_cleanly(capsys, run_nerf, *flags, "--sampler", "hierarchical", says=("--sampler occupancy",))
    fails_cleanly(capsys, run_nerf, *flags, "--model", "field.bin", says=("--model field.bin", "nerf or", "tensorf"))
