"""VQ-TensoRF: importance by hand, exact sharing, LSQ gradients, the file against the field."""

import json

import pytest
import torch
from helpers import TENSOR_BOX, fails_cleanly, finish, launch, points_in_box, run

import run_vq
from compressors.codebooks import (
    assign,
    balance,
    fit_codebook,
    plane_importance,
    relative_error,
    split_by_importance,
    vector_quantize,
)
from compressors.vq import Trial, lowest_place
from deploy.model_file import load_renderer
from deploy.vq_file import decode, encode
from fields.tensorf import TensorfConfig, TensorField, total_variation
from fields.vq_tensorf import CODED, KEPT, PRUNED, RoundedTensor, VQField, laplace_bits
from rendering.occupancy import OccupancyGrid
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.points import FieldOutput
from rendering.rays import Rays, RaySetup
from training.checkpoints import load_newest
from utils.errors import BrokenFile

CONFIG = TensorfConfig(density_ranks=(2, 3, 1), color_ranks=(3, 2, 4), features=5, hidden=8)


def make(resolution=(9, 8, 10)) -> TensorField:
    torch.manual_seed(0)
    return TensorField(CONFIG, CONFIG.make_network(resolution, TENSOR_BOX))


def quantized(kept: float = 0.5, pruned: float = 0.05) -> VQField:
    field = make()
    importance = [torch.rand(plane.shape[:2]) ** 3 for plane in field.network.planes]
    return VQField(CONFIG, vector_quantize(field, importance, kept, pruned, 8, seed=0))


# --------------------------------------------------------------------------------------- rounding


def test_rounding_by_hand():
    tensor = RoundedTensor(torch.tensor([[0.24, 0.26, -0.9], [1.0, -0.1, 3.0]]), (2, 1), 1.0)
    with torch.no_grad():
        tensor.log_step.copy_(torch.tensor([0.5, 2.0]).log())
    torch.testing.assert_close(tensor(), torch.tensor([[0.0, 0.5, 0.0], [1.0, 0.0, 4.0]]))
    assert tensor.integers().tolist() == [[0, 1, 0], [2, 0, 2]]


def test_the_gradient_of_a_step_is_that_of_lsq():
    """By x: straight through inside; by the step: round(x / s) - x / s inside, the bound outside."""
    x = torch.tensor([[0.3, -0.7, 200.0]])
    tensor = RoundedTensor(x, (3,), 1.0)
    with torch.no_grad():
        tensor.log_step.zero_()
    (tensor() * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert tensor.value.grad.tolist() == [[1, 2, 0]]
    expected = 1 * (0 - 0.3) + 2 * (-1 + 0.7) + 3 * 127
    assert tensor.log_step.grad.item() == pytest.approx(expected, rel=1e-5)  # d/d log s = s d/ds, and s is 1


@pytest.mark.parametrize("scale", [0.05, 0.4, 3.0])
def test_laplace_bits_are_a_distribution(scale):
    whole = torch.arange(-300.0, 301)
    assert (2 ** -laplace_bits(whole, torch.tensor(scale))).sum().item() == pytest.approx(1, abs=1e-4)


def test_laplace_bits_against_sampling():
    """The mean price is the entropy of what was rounded."""
    sample = torch.distributions.Laplace(0.0, 1.5).sample((200_000,)).round()
    _, counts = sample.unique(return_counts=True)
    share = counts / counts.sum()
    entropy = -(share * share.log2()).sum()
    assert laplace_bits(sample, torch.tensor(1.5)).mean().item() == pytest.approx(entropy.item(), rel=0.01)


def test_laplace_bits_have_finite_gradients():
    x = torch.tensor([0.0, 0.5, -0.5, 1e-9, 40.0, -127.0], requires_grad=True)
    laplace_bits(x, torch.tensor(0.04)).sum().backward()
    assert torch.isfinite(x.grad).all()


# ------------------------------------------------------------------------------------- importance


def test_importance_by_hand():
    """One ray along z through an opaque slab: all its weight falls on the four entries around (x, y)."""
    field = make((5, 5, 5))
    box = torch.tensor([[0.0, 0, 0], [4, 4, 4]])
    field.network.aabb.copy_(box)
    field.density = None  # not what is asked
    field.forward = lambda p: FieldOutput(torch.where(p.positions[:, 2] < 1, 1000.0, 0.0), torch.zeros(len(p), 3))
    renderer = OccupancyRenderer(field, OccupancyGrid(box, 8), RaySetup(0.0, 10.0), 0.01, 0.0)
    ray = Rays(torch.tensor([[1.25, 2.5, 5.0]]), torch.tensor([[0.0, 0, -1]]), torch.tensor([[0.0, 0, -1]]))
    xy, xz, yz = plane_importance(renderer, [ray])
    expected = torch.zeros(5, 5)  # rows are y, columns are x
    expected[2, 1], expected[2, 2], expected[3, 1], expected[3, 2] = 0.375, 0.125, 0.375, 0.125
    torch.testing.assert_close(xy, expected, atol=1e-3, rtol=0)
    # The slab begins at z = 1: rows are z, columns are x (and y).
    torch.testing.assert_close(xz.sum(0), torch.tensor([0, 0.75, 0.25, 0, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(yz.sum(0), torch.tensor([0, 0, 0.5, 0.5, 0]), atol=1e-3, rtol=0)
    assert xz[1].sum() == pytest.approx(1, abs=0.02) and xz[2:].sum() == 0


def test_split_by_hand():
    importance = torch.tensor([[40.0, 0.0, 5.0], [30.0, 24.0, 1.0]])
    states = split_by_importance(importance, kept=0.7, pruned=0.07)
    assert states.tolist() == [[KEPT, PRUNED, PRUNED], [KEPT, CODED, PRUNED]]
    assert (split_by_importance(importance, 1.0, 0.0) == KEPT).sum() == 5  # what no ray meets is pruned anyway
    assert not (split_by_importance(importance, 0.0, 0.0) == KEPT).any()


def test_balance_keeps_the_field_and_evens_out_channels():
    field, points = make(), points_in_box()
    before = field(points)[:2]
    balance(field.network)
    for value, expected in zip(field(points)[:2], before, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    for line in field.network.lines:
        torch.testing.assert_close(line.square().mean(0), torch.ones(line.shape[1]))


# -------------------------------------------------------------------------------------- codebooks


def test_codebook_finds_well_separated_clusters():
    generator = torch.Generator().manual_seed(0)
    centers = 10 * torch.randn(12, 4, generator=generator)
    vectors = (centers[:, None] + 0.1 * torch.randn(12, 40, 4, generator=generator)).view(-1, 4)
    codes = fit_codebook(vectors, torch.ones(len(vectors)), 12, generator)
    numbers, errors = assign(centers, codes)
    assert len(numbers.unique()) == 12 and errors.max() < 0.05


def test_codebook_minds_weights():
    """One code for two clusters lies at their weighted mean."""
    vectors = torch.cat([torch.zeros(50, 2), torch.ones(50, 2)])
    weight = torch.cat([torch.ones(50), 3 * torch.ones(50)])
    codes = fit_codebook(vectors, weight, 1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(codes, torch.full((1, 2), 0.75), atol=1e-3, rtol=0)


def test_assign_is_the_nearest_code():
    generator = torch.Generator().manual_seed(0)
    vectors, codes = torch.randn(500, 6, generator=generator), torch.randn(30, 6, generator=generator)
    distance = torch.cdist(vectors, codes)
    numbers, errors = assign(vectors, codes, chunk=64)
    torch.testing.assert_close(errors, distance.amin(1).square(), rtol=1e-4, atol=1e-4)
    assert (numbers == distance.argmin(1)).all()


# --------------------------------------------------------------------------------- field and file


def test_sharing_is_exact():
    """Moving one code moves every entry that uses it, by the same amount, and nothing else."""
    network = quantized().network
    before = [plane.detach().clone() for plane in network.dense().planes]
    table = network.tables[0]
    with torch.no_grad():
        table.value[0] += 5 * table.steps()
    moved = network.dense().planes[0] - before[0]
    for group, part in enumerate(moved.split(table.groups, -1)):
        users = network.rows[0][group] == 1
        assert users.any()
        step = table.log_step[group].exp().expand_as(part[users])
        torch.testing.assert_close(part[users], 5 * step)
        assert (part[~users] == 0).all()


def test_looking_up_rows_is_looking_up_the_dense_planes():
    field, points = quantized(), points_in_box()
    dense = TensorField(CONFIG, field.network.dense())
    for value, expected in zip(field(points)[:2], dense(points)[:2], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_smoothness_of_shared_entries_reaches_their_codes():
    """Written-out planes vary as the field's do, and all users of a code pull on it."""
    network = quantized().network
    planes = network.planes()
    expected = total_variation(network.dense().planes, CONFIG.density_ranks)
    found = total_variation(planes, CONFIG.density_ranks)
    torch.testing.assert_close(found, expected)
    users = network.rows[0] == 1
    shared = torch.cat([mask.unsqueeze(-1).expand(*mask.shape, r) for mask, r in zip(users, (2, 3), strict=True)], -1)
    by_entry = torch.autograd.grad(sum(found), planes[0], retain_graph=True)[0]
    by_code = torch.autograd.grad(sum(found), network.tables[0].value)[0][0]
    torch.testing.assert_close(by_code, (by_entry * shared).sum((0, 1)))


def test_pruned_entries_are_zero():
    network = quantized().network
    for plane, state in zip(network.dense().planes, network.states(), strict=True):
        assert (plane[state == PRUNED] == 0).all() and (state == PRUNED).any()


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_the_file_is_the_field(kept):
    field, points = quantized(kept), points_in_box()
    with torch.no_grad():
        for name, parameter in field.network.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(parameter.half())
    described, tensors = encode(field.network)
    again = decode({**CONFIG.__dict__, **described}, tensors)
    for ours, theirs in zip(field.network.dense().parameters(), again.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(again(points).rgb, field(points).rgb)


def test_codes_that_round_alike_are_written_as_one():
    """The file is smaller for it, and the field is the same."""
    network = quantized(kept=0.0).network
    sizes = []
    for _ in range(2):
        expected = network.dense().planes
        described, tensors = encode(network)
        sizes.append(len(tensors["stream"]))
        decoded = decode({**CONFIG.__dict__, **described}, tensors).network
        assert all(map(torch.equal, decoded.planes, expected))
        for table in network.tables:
            table.value.data[1:] = table.value.data[:1]
    assert sizes[1] < sizes[0] - 50  # 250 entries with two of eight codes each, and the codes


def test_relative_error_by_hand():
    network = quantized().network
    planes, ranks = network.dense().planes, CONFIG.density_ranks
    ones = [torch.ones(plane.shape[:2]) for plane in planes]
    assert relative_error(network, planes, ones) == 0
    brighter = [torch.cat([plane[..., :r], 2 * plane[..., r:]], -1) for plane, r in zip(planes, ranks, strict=True)]
    assert relative_error(network, brighter, ones) == pytest.approx(0.25)  # colours lost half of their size
    denser = [torch.cat([3 * plane[..., :r], plane[..., r:]], -1) for plane, r in zip(planes, ranks, strict=True)]
    assert relative_error(network, denser, ones) == pytest.approx(4 / 9)
    unseen = [torch.zeros(plane.shape[:2]) for plane in planes]
    assert relative_error(network, denser, unseen) == 0


@pytest.mark.parametrize("best", [(0, 0), (5, 2), (2, 1), (4, 0)])
def test_the_best_split_is_found_without_trying_all(best):
    asked = set()

    def value(at: tuple[int, int]) -> Trial:
        asked.add(at)
        loss = (at[0] - best[0]) ** 2 + 3 * abs(at[1] - best[1])
        return Trial(loss > 8, loss, 1.0)  # what is too large still tells where to go

    assert lowest_place(value, (6, 3)) == (best, Trial(False, 0, 1.0))
    assert len(asked) < 18


def test_estimated_bits_are_near_the_coded_ones():
    """Where values are as the price takes them to be: Laplace, without neighbours that tell of them."""
    torch.manual_seed(0)
    config = TensorfConfig(density_ranks=(8, 8, 8), color_ranks=(8, 8, 8), features=4, hidden=4)
    field = TensorField(config, config.make_network((40, 40, 40), TENSOR_BOX))
    with torch.no_grad():
        for factor in field.network.factors():
            factor.copy_(torch.distributions.Laplace(0.0, 1.0).sample(factor.shape))
    importance = [torch.ones(plane.shape[:2]) for plane in field.network.planes]
    network = vector_quantize(field, importance, 1.0, 0.0, 8, seed=0)
    _, tensors = encode(network)
    assert network.bits().item() / 8 == pytest.approx(len(tensors["stream"]), rel=0.06)
    assert network.bits(4, 1).item() == pytest.approx(network.bits().item(), rel=0.05)


def test_damaged_streams_never_decode_to_nonsense_silently():
    described, tensors = encode(quantized().network)
    described = {**CONFIG.__dict__, **described}
    with pytest.raises(BrokenFile, match="no tensor steps"):
        decode(described, {k: v for k, v in tensors.items() if k != "steps"})
    with pytest.raises(BrokenFile, match="no codebook"):
        decode({**described, "codes": [0, 0, 0]}, tensors)
    tensors["steps"] = -tensors["steps"]
    with pytest.raises(BrokenFile, match="not positive"):
        decode(described, tensors)


# ---------------------------------------------------------------------------------------- command

TINY_VQ = [
    "--dataset_type", "procedural", "--procedural_size", "24", "--white_bkgd", "--random_bkgd", "--field", "tensorf",
    "--density_ranks", "2", "2", "2", "--color_ranks", "4", "4", "4", "--decoder_width", "16", "--voxels", "4096",
    "--upsample_steps", "--shrink_step", "0", "--density_activation", "softplus", "--density_bias", "-6",
    "--density_scale", "25", "--sampler", "occupancy", "--grid_resolution", "24", "--samples_per_batch", "2048",
    "--N_iters", "60", "--qat_iters", "40", "--lrate", "0.02", "--lrate_decay", "3", "--codebook_size", "16",
    "--path_frames", "2", "--device", "cpu", "--i_weights", "20", "--i_print", "20",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vq")
    run(run_vq, *TINY_VQ, "--basedir", folder, "--expname", "run")
    return folder / "run"


def test_a_run_leaves_a_small_file_that_renders_what_was_trained(finished):
    models = json.loads((finished / "metrics.json").read_text())["models"]
    assert list(models) == ["float32", "vq_untrained", "fake_quant", "vq"]
    assert models["vq"]["bytes"] < models["float32"]["bytes"] / 4
    assert models["vq"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.02)
    assert models["vq"]["psnr"] > models["float32"]["psnr"] - 0.5 > 14
    _, _, metadata = load_renderer(finished / "model_vq.safetensors", torch.device("cpu"))
    assert metadata["precision"] == "vq"


def test_render_only_needs_the_file_alone(finished, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "model.safetensors"
    file.write_bytes((finished / "model_vq.safetensors").read_bytes())
    run(run_vq, *TINY_VQ, "--basedir", tmp_path, "--expname", "other", "--render_only", "--model", file)
    assert (tmp_path / "other" / "renderonly_path_000000" / "video_rgb.mp4").exists()


def test_resume_in_the_finetune_is_bit_for_bit(finished, tmp_path):
    run(run_vq, *TINY_VQ, "--basedir", tmp_path, "--expname", "run", "--qat_iters", "40")
    for checkpoint in sorted((tmp_path / "run").glob("*.tar"))[-1:]:
        checkpoint.unlink()
    (tmp_path / "run" / "model_vq.safetensors").unlink()
    run(run_vq, *TINY_VQ, "--basedir", tmp_path, "--expname", "run")
    ours, theirs = load_newest(tmp_path / "run")[1], load_newest(finished)[1]
    for name, value in theirs["network_fn_state_dict"].items():
        assert torch.equal(value, ours["network_fn_state_dict"][name]), name


def test_a_damaged_file_is_one_clear_error(finished, tmp_path, capsys):
    content = bytearray((finished / "model_vq.safetensors").read_bytes())
    for name, damaged in {
        "cut": content[:-50],
        "flipped": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    }.items():
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(damaged)
        fails_cleanly(capsys, run_vq, *TINY_VQ, "--basedir", tmp_path, "--render_only", "--model", file, says=(name,))


def test_a_field_without_planes_is_refused_before_training(tmp_path, capsys):
    fails_cleanly(capsys, run_vq, *TINY_VQ, "--tensor", "cp", "--basedir", tmp_path, says=("--tensor cp", "planes"))
    fails_cleanly(capsys, run_vq, *TINY_VQ, "--field", "nerf", "--basedir", tmp_path, says=("--field nerf",))
    fails_cleanly(capsys, run_vq, *TINY_VQ, "--N_iters", "0", "--basedir", tmp_path, says=("--N_iters 0", "--ft_path"))


def test_a_price_that_cannot_move_is_refused_before_training(tmp_path, capsys):
    for flags in (["--rate_weight", "-1"], ["--rate_weight", "0", "--target_bytes", "6000"]):
        fails_cleanly(capsys, run_vq, *TINY_VQ, *flags, "--basedir", tmp_path, says=("--rate_weight",))


def test_target_bytes_are_kept_to(finished, tmp_path):
    start = ["--ft_path", sorted(finished.glob("*.tar"))[2], "--basedir", tmp_path]  # the last float checkpoint
    for target in (4500, 6000):
        run(run_vq, *TINY_VQ, *start, "--expname", target, "--qat_iters", "150", "--target_bytes", target)
        model = json.loads((tmp_path / str(target) / "metrics.json").read_text())["models"]["vq"]
        assert 0.85 * target < model["bytes"] <= target


def test_the_finetune_keeps_planes_smooth(finished, tmp_path):
    """With `--tv_weight` they vary less than without, from the same field."""
    variation = []
    for weight in ("0", "10"):
        start = "--ft_path", finished / "000060.tar"
        run(run_vq, *TINY_VQ, *start, "--basedir", tmp_path, "--expname", weight, "--tv_weight", weight, weight)
        renderer, _, _ = load_renderer(tmp_path / weight / "model_vq.safetensors", torch.device("cpu"))
        network = renderer.field.network
        variation.append(sum(total_variation(network.planes, network.config.density_ranks)).item())
    assert variation[1] < 0.9 * variation[0]


def test_a_target_that_cannot_be_met_names_the_smallest(finished, tmp_path, capsys):
    start = ["--ft_path", sorted(finished.glob("*.tar"))[2], "--basedir", tmp_path]
    flags = [*TINY_VQ, *start, "--target_bytes", "900"]
    fails_cleanly(capsys, run_vq, *flags, says=("--target_bytes 900", "smallest file", "--voxels_final"))


def test_a_field_may_teach_its_own_compression(finished, tmp_path):
    """Distillation comes on top of the price of bytes, not in its place."""
    start = ["--ft_path", sorted(finished.glob("*.tar"))[2], "--basedir", tmp_path, "--expname", "taught"]
    run(run_vq, *TINY_VQ, *start, "--distill", "1", "--rate_weight", "1e-1", "--qat_lrate_scale", "1")
    models = json.loads((tmp_path / "taught" / "metrics.json").read_text())["models"]
    assert models["vq"]["bytes"] < 0.95 * models["vq_untrained"]["bytes"]


def test_two_processes_compress_one_model(tmp_path):
    """Ranks compare their models, bit for bit, after the run's steps."""
    flags = [*TINY_VQ, "--basedir", tmp_path, "--expname", "two", "--target_bytes", "6000", "--qat_iters", "60"]
    status, out, err = finish(launch(2, "run_vq.py", *flags))
    assert status == 0, err
    models = json.loads((tmp_path / "two" / "metrics.json").read_text())["models"]
    assert models["vq"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.02)
    assert models["vq"]["bytes"] <= 6000 and out.count("results are in") == 1
