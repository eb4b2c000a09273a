"""Which pixels are drawn: all alike without masks, and with them those that are valid, and no other."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import HIERARCHICAL, TINY, make_trainer

from evaluation.measures import psnr, ssim
from evaluation.views import evaluate_views
from experiment import make_renderer
from load_scene import load_scene
from options import config_parser
from rendering.carving import make_grid
from rendering.renderer import RenderLimits
from training.batches import BatchSettings, RayBatches
from training.pixel_numbers import packed_bits, pixel_numbers
from utils.errors import BadInput

CPU = torch.device("cpu")
ALL_VIEWS = [flag for flag in HIERARCHICAL if flag != "--no_batching"]


@pytest.fixture(scope="module")
def scene():
    return load_scene(config_parser().parse_args(HIERARCHICAL))


def masked(scene, valid: torch.Tensor):
    return dataclasses.replace(scene, valid=valid)


def random_mask(scene, share: float = 0.3) -> torch.Tensor:
    return torch.rand(scene.images.shape[:3], generator=torch.Generator().manual_seed(1)) < share


def make(scene, flags: list[str], *more: str) -> tuple[RayBatches, torch.nn.Module]:
    args = config_parser().parse_args([*flags, *more])
    return RayBatches(BatchSettings.from_flags(args), scene, CPU), make_renderer(args, scene, CPU)


def drawn(batches: RayBatches, renderer, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """View, row and column of the pixels that a batch's rays go through, by projecting the rays back."""
    rays = batches.draw(renderer, step).rays
    cameras = batches.cameras
    view = torch.cdist(rays.origins, cameras.c2w[:, :, 3]).argmin(1)
    local = (rays.directions[:, None] @ cameras.c2w[view, :, :3])[:, 0]
    K = cameras.K[view]
    column = K[:, 0, 2] - local[:, 0] / local[:, 2] * K[:, 0, 0]
    row = K[:, 1, 2] + local[:, 1] / local[:, 2] * K[:, 1, 1]
    return view, row.long(), column.long()


def test_without_masks_the_stream_is_what_it_was(scene):
    """The draws in their order, written out: view, row, column. A change here breaks old resumptions."""
    for flags, views in ((ALL_VIEWS, 64), (HIERARCHICAL, 1)):
        batches, renderer = make(scene, flags)
        assert batches.candidates is None
        generator = torch.Generator().manual_seed(0)
        for step, middle in ((1, 12), (7, 24)):
            expected = [
                torch.randint(60, (views,), generator=generator).expand(64),
                (24 - middle) // 2 + torch.randint(middle, (64,), generator=generator),
                (24 - middle) // 2 + torch.randint(middle, (64,), generator=generator),
            ]
            got = drawn(batches, renderer, step)
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("flags", [ALL_VIEWS, HIERARCHICAL, TINY], ids=["batching", "no_batching", "occupancy"])
def test_only_valid_pixels_are_drawn_and_each_of_them(scene, flags):
    valid = random_mask(scene)
    valid[5] = False  # a view without any
    batches, renderer = make(masked(scene, valid), flags, "--precrop_iters", "0", "--N_rand", "3000")
    seen = torch.zeros_like(valid[scene.splits["train"]])
    for step in range(1, 40):
        view, row, column = drawn(batches, renderer, step)
        seen[view, row, column] = True
        if "--no_batching" in flags:
            assert len(view.unique()) == 1
    assert not (seen & ~valid[scene.splits["train"]]).any()
    views = seen.any((1, 2)).nonzero()[:, 0]
    share = seen[views].sum() / valid[scene.splits["train"]][views].sum()
    assert share > (0.95 if flags is not TINY else 0.1)


def test_precrop_draws_the_valid_pixels_of_the_middle(scene):
    batches, renderer = make(masked(scene, random_mask(scene)), HIERARCHICAL, "--N_rand", "500")
    _, row, column = drawn(batches, renderer, 1)
    assert int(row.min()) >= 6 and int(row.max()) < 18 and int(column.min()) >= 6 and int(column.max()) < 18
    _, row, column = drawn(batches, renderer, 100)
    assert int(row.min()) < 3 and int(row.max()) > 20 and int(column.min()) < 3 and int(column.max()) > 20


def test_nothing_left_is_refused(scene):
    valid = torch.zeros(scene.images.shape[:3], dtype=torch.bool)
    with pytest.raises(BadInput, match="no training pixel is left"):
        make(masked(scene, valid), HIERARCHICAL)
    valid[:, 0] = True  # the top row, which no cropped step sees
    with pytest.raises(BadInput, match="--precrop_iters 6"):
        make(masked(scene, valid), HIERARCHICAL)
    make(masked(scene, valid), HIERARCHICAL, "--precrop_iters", "0")


def test_pixel_numbers_count_the_true_ones():
    chosen = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    numbers = pixel_numbers(chosen)
    assert numbers.dtype == torch.int32
    assert numbers.tolist() == chosen.view(-1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("count", [0, 1, 8, 13, 40])
def test_packed_bits_are_numpys(count):
    bits = torch.rand(count, generator=torch.Generator().manual_seed(count)) < 0.5
    assert packed_bits(bits).tolist() == np.packbits(bits.numpy()).tolist()


def test_resume_with_masks_is_bit_for_bit(scene, tmp_path):
    with_mask = masked(scene, random_mask(scene))
    whole = make_trainer(with_mask, tmp_path / "whole", TINY)
    whole.train(12)
    first = make_trainer(with_mask, tmp_path / "parts", TINY)
    first.train(5)
    second = make_trainer(with_mask, tmp_path / "parts", TINY, "--seed", "5")
    second.load_state_dict(first.state_dict())
    second.renderer.load_state_dict(first.renderer.state_dict())
    second.train(12)
    for a, b in zip(whole.renderer.state_dict().values(), second.renderer.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# ------------------------------------------------------------------------------- other users of masks


def test_measures_are_taken_on_valid_pixels(scene):
    _, renderer = make(scene, TINY)
    view = scene.splits["test"][0]
    valid = torch.ones(scene.images.shape[:3], dtype=torch.bool)
    everything = evaluate_views(renderer, scene, [view], RenderLimits(rays=4096))
    all_valid = evaluate_views(renderer, masked(scene, valid), [view], RenderLimits(rays=4096))
    assert (all_valid.psnr, all_valid.ssim) == (everything.psnr, everything.ssim)
    valid[:, :, 12:] = False
    half = evaluate_views(renderer, masked(scene, valid), [view], RenderLimits(rays=4096))
    a, b = (pictures[0][:, :12].float() / 255 for pictures in (everything.images, everything.targets))
    assert half.psnr == [pytest.approx(psnr(a, b), abs=1e-9)]
    assert half.ssim == [pytest.approx(ssim(a, b), abs=1e-9)]  # the same windows
    valid[:, 8:] = False
    assert evaluate_views(renderer, masked(scene, valid), [view], RenderLimits(rays=4096)).ssim == [None]


def test_a_mask_does_not_carve(scene):
    """Transparent pixels carve space away, unless a mask says that they are not to be believed."""
    images = scene.images.clone()
    images[..., :12, 3] = 0
    broken = dataclasses.replace(scene, images=images)
    valid = torch.ones(scene.images.shape[:3], dtype=torch.bool)
    valid[..., :12] = False
    true_grid = make_grid(scene, 24, CPU)
    with pytest.raises(BadInput, match="silhouettes"):
        make_grid(dataclasses.replace(broken, images=torch.zeros_like(images)), 24, CPU)
    grid = make_grid(masked(broken, valid), 24, CPU)
    cells = true_grid.cell_centers(true_grid.occupied.view(-1).nonzero()[:, 0])
    assert grid.holds(cells).all()


def test_filtered_rays_are_those_that_meet_an_occupied_cell(scene):
    batches, renderer = make(scene, TINY)
    occupied = torch.zeros_like(renderer.grid.occupied)
    occupied[8:12, 8:12, 8:12] = True
    renderer.grid.set_occupied(occupied)
    batches.filter(renderer)
    low, high = renderer.grid.aabb[0] + 8 * renderer.grid.cell, renderer.grid.aabb[0] + 12 * renderer.grid.cell
    everything = torch.arange(batches.images[..., 0].numel())
    hits = []
    for rays in batches.rays_of(everything, renderer):
        t = torch.stack([low - rays.origins, high - rays.origins]) / rays.directions
        hits.append(t.amin(0).amax(-1) < t.amax(0).amin(-1))  # the slab test, against the block of cells
    hits = torch.cat(hits)
    kept = torch.zeros_like(hits)
    kept[batches.candidates.long()] = True
    assert not (kept & ~hits).any()
    # March looks at points a step apart: it may miss a corner that a ray only grazes.
    assert kept.sum() > 0.9 * hits.sum() > 0


def test_filtered_rays_survive_a_resumption(scene, tmp_path):
    flags = [*TINY, "--filter_rays"]
    one = make_trainer(scene, tmp_path, flags)
    other = make_trainer(scene, tmp_path, flags)
    one.batches.keep_only(one.batches.candidates[::3])  # as if the grid had been another
    other.batches.load_state_dict(one.batches.state_dict())
    assert torch.equal(one.batches.candidates, other.batches.candidates)


def test_filtering_wants_a_grid(scene):
    with pytest.raises(BadInput, match="--sampler occupancy"):
        make(scene, HIERARCHICAL, "--filter_rays")
