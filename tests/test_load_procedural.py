"""The built-in scene against closed forms and against brute force."""

import math

import pytest
import torch

import load_procedural
from load_procedural import AABB, SPHERE_CENTER, SPHERE_RADIUS, load_procedural_scene
from run_nerf_helpers import get_rays
from utils.errors import BadInput

SIZE = 32


@pytest.fixture(scope="module")
def scene():
    return load_procedural_scene(SIZE, train_views=6, val_views=2, test_views=3, path_frames=5, supersample=2)


def random_points(count: int, margin: float = 0.0) -> torch.Tensor:
    """Points `[3, count]` in the box, grown by a margin."""
    low, high = torch.tensor(AABB)[..., None]
    uniform = torch.rand(3, count, generator=torch.Generator().manual_seed(0))
    return low - margin + uniform * (high - low + 2 * margin)


def view_rays(scene, view: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and directions `[H, W, 3]` of a view, directions of length 1 along the optical axis."""
    camera = scene.cameras
    return get_rays(camera.height, camera.width, camera.K[view], camera.c2w[view])


def sphere_depth(origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Where rays `[..., 3]` first meet the glossy sphere, in multiples of the direction; nan where never."""
    offset = origins - torch.tensor(SPHERE_CENTER)
    a = (directions**2).sum(-1)
    b = (offset * directions).sum(-1)
    c = (offset**2).sum(-1) - SPHERE_RADIUS**2
    return (-b - (b * b - a * c).sqrt()) / a


def test_contents_of_the_scene(scene):
    assert scene.images.shape == (11, SIZE, SIZE, 4) and scene.images.dtype == torch.uint8
    assert scene.depth.shape == (11, SIZE, SIZE) and scene.depth.dtype == torch.float32
    assert {name: len(views) for name, views in scene.splits.items()} == {"train": 6, "val": 2, "test": 3}
    assert sorted(sum(scene.splits.values(), [])) == list(range(11))
    assert len(scene.cameras) == 11 and len(scene.render_path) == 5
    assert scene.background == (1.0, 1.0, 1.0)
    assert load_procedural_scene(8, 1, 0, 1, 1, 1, white_background=False).background == (0.0, 0.0, 0.0)
    opaque = scene.images[..., 3] == 255
    assert 0.25 < opaque.float().mean() < 0.6  # the subject fills the frame, with room around it
    border = torch.ones(SIZE, SIZE, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert (scene.images[:, border, 3] == 0).all()


def test_two_calls_give_the_same_bytes(scene):
    again = load_procedural_scene(SIZE, train_views=6, val_views=2, test_views=3, path_frames=5, supersample=2)
    assert torch.equal(scene.images, again.images)
    assert torch.equal(scene.depth, again.depth)
    assert torch.equal(scene.cameras.c2w, again.cameras.c2w)


def test_test_views_do_not_depend_on_the_number_of_training_views(scene):
    fewer = load_procedural_scene(SIZE, train_views=2, val_views=1, test_views=3, path_frames=1, supersample=2)
    assert torch.equal(scene.cameras.c2w[scene.splits["test"]], fewer.cameras.c2w[fewer.splits["test"]])
    images, same = scene.images[scene.splits["test"]].float(), fewer.images[fewer.splits["test"]].float()
    assert (images - same).abs().mean() < 0.01  # of 255; the last bit may depend on the batch


def test_default_cameras_are_apart_and_on_the_upper_hemisphere():
    # 60 training, 4 validation and 10 test views, as load_procedural_scene numbers them.
    c2w = load_procedural.camera_poses([*range(60), *range(-11, -15, -1), *range(-1, -11, -1)])
    eyes, backward = c2w[:, :, 3], c2w[:, :, 2]
    torch.testing.assert_close(eyes.norm(dim=-1), torch.full((74,), 4.0))
    torch.testing.assert_close(backward, eyes / 4, atol=1e-5, rtol=0)  # they look at the origin
    elevation = torch.rad2deg(torch.asin(backward[:, 2]))
    assert -5.01 < elevation.min() < 0 and 65 < elevation.max() < 75.01
    # 74 even points on this 53 % of a sphere are some 17 degrees apart; a random layout gets below 2.
    apart = torch.rad2deg(torch.acos((backward @ backward.T).fill_diagonal_(-1).clamp(-1, 1)))
    assert apart.amin() > 6
    # No direction is far from a training view, and so no test view either.
    assert apart[64:, :60].amin(1).max() < 20


def test_depth_is_the_closed_form_on_the_sphere(scene):
    sphere, errors = load_procedural.NAMES.index("sphere"), []
    for view in range(len(scene.cameras)):
        origins, directions = view_rays(scene, view)
        depth = scene.depth[view]
        points = (origins + depth[..., None] * directions)[depth.isfinite()].T.contiguous()
        nearest = torch.stack(load_procedural.part_distances(points)).argmin(0)
        expected = sphere_depth(origins, directions)[depth.isfinite()]
        errors.append((depth[depth.isfinite()] - expected)[nearest == sphere].abs())
    error = torch.cat(errors)
    assert len(error) > 200
    # A ray that only just misses may count as a hit: there the closed form is nan.
    assert error.isnan().float().mean() < 0.01
    assert error.nanmedian() < 1e-4 and error.nanquantile(0.98) < 5e-3
    assert error.nan_to_num().max() < 0.03  # sqrt(2 * radius * distance) where it grazes the sphere


def test_no_ray_misses_the_sphere(scene):
    for view in range(len(scene.cameras)):
        expected = sphere_depth(*view_rays(scene, view))
        meets = expected.isfinite()
        assert (scene.depth[view][meets] <= expected[meets] + 1e-3).all()


def test_hits_lie_on_the_surface_and_in_the_box(scene):
    low, high = scene.aabb
    for view in range(len(scene.cameras)):
        origins, directions = view_rays(scene, view)
        hit = scene.depth[view].isfinite()
        points = (origins + scene.depth[view][..., None] * directions)[hit]
        distance = load_procedural.sdf(points.T.contiguous()).abs()
        assert distance.median() < 5e-5 and distance.quantile(0.9) < load_procedural.HIT_DISTANCE
        assert distance.max() < 1e-3  # a 25th of the finest default pixel, for rays that creep along
        assert ((points > low) & (points < high)).all()
        assert (scene.depth[view][hit] > scene.near).all() and (scene.depth[view][hit] < scene.far).all()


def test_box_is_tight_around_the_content():
    low, high = torch.tensor(AABB)
    points = random_points(200_000, margin=0.5)
    content = points[:, load_procedural.sdf(points) < 0].T
    assert (content > low).all() and (content < high).all()
    slack = torch.cat([content.amin(0) - low, high - content.amax(0)])
    assert slack.max() < 0.12


def test_sdf_is_1_lipschitz():
    # Then a step of that length never passes through a surface. Pairs at all scales, near and far, and
    # every part by itself, since far from a part the others hide it.
    start = random_points(50_000, margin=1.5)
    generator = torch.Generator().manual_seed(1)
    scale = 10 ** torch.empty(start.shape[1]).uniform_(-2.5, 0, generator=generator)
    step = scale * torch.randn(start.shape, generator=generator)
    before, after = (torch.stack(load_procedural.part_distances(points)) for points in (start, start + step))
    assert ((after - before).abs() <= step.norm(dim=0) * (1 + 1e-3)).all()
    points = random_points(20_000, margin=0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(load_procedural.sdf(points).sum(), points)
    slope = gradient.norm(dim=0)
    assert slope.max() < 1 + 1e-3
    assert slope.median() > 0.99  # and it is a distance for the most part, so that steps are long


@torch.no_grad()
def test_rays_that_graze_the_sphere_go_on_to_the_floor():
    # Straight down past the equator, at 10^-4.5 to 10^-2 from it: the nearest take hundreds of steps.
    angle = torch.linspace(0, 2 * math.pi, 100)
    clearance = torch.logspace(-4.5, -2, 100)
    radius = SPHERE_RADIUS + clearance
    x, y = SPHERE_CENTER[0] + radius * angle.cos(), SPHERE_CENTER[1] + radius * angle.sin()
    origins = torch.stack([x, y, torch.full_like(x, 1.5)])
    distance = load_procedural.trace(origins, torch.tensor([[0.0], [0.0], [-1.0]]).expand(3, 100))
    assert distance.isfinite().all()
    clear = clearance > 1e-3
    torch.testing.assert_close(
        distance[clear], torch.full_like(distance[clear], 1.5 - load_procedural.FLOOR), atol=2e-4, rtol=0
    )


def test_normals_are_those_of_the_sphere():
    direction = torch.nn.functional.normalize(torch.tensor([[0.3, -0.8, 0.5], [0.9, -0.1, 0.4]])).T
    points = torch.tensor(SPHERE_CENTER)[:, None] + SPHERE_RADIUS * direction
    torch.testing.assert_close(load_procedural.normals(points), direction, atol=2e-3, rtol=0)


def test_alpha_agrees_with_depth(scene):
    hit = scene.depth.isfinite().float()[:, None]
    nearby = torch.nn.functional.max_pool2d(hit, 3, 1, 1)[:, 0]
    depth = scene.depth[:, None].nan_to_num(posinf=1e3)
    lowest = -torch.nn.functional.max_pool2d(-depth, 3, 1, 1)
    flat = (torch.nn.functional.max_pool2d(depth, 3, 1, 1) - lowest < 0.15)[:, 0] & (nearby == 1)
    flat &= scene.depth.isfinite()  # and so no silhouette is near
    alpha = scene.images[..., 3]
    assert (alpha[nearby == 0] == 0).all() and (scene.images[nearby == 0] == 0).all()
    assert flat.sum() > 1000 and (alpha[flat] == 255).all()
    # Sub-rays are 2x2, so alpha is a multiple of a quarter, and every one occurs.
    assert set(alpha.unique().tolist()) == {0, 64, 128, 191, 255}


@torch.no_grad()
def test_sparing_rays_changes_next_to_nothing():
    size, supersample = 64, 3
    scene = load_procedural_scene(size, 2, 0, 1, 1, supersample)
    pixels = torch.arange(3 * size * size)
    places = (torch.arange(supersample) + 0.5).split(1)
    rays = [
        load_procedural.render_rays(scene.cameras, pixels, x / supersample, y / supersample)[0]
        for y in places
        for x in places
    ]
    every = torch.stack(rays).mean(0)
    rgba = scene.images.reshape(-1, 4).T.float() / 255
    assert torch.equal(scene.images[..., 3].flatten(), (every[3] * 255).round().to(torch.uint8))
    error = (rgba[:3] * rgba[3] - every[:3]).abs()  # premultiplied
    assert error.max() < 0.04 and error.mean() < 5e-4


def test_straight_colour_does_not_darken_towards_silhouettes(scene):
    # No material is darker than 80 in its strongest channel, whatever fraction of a pixel it fills.
    quarter = scene.images[scene.images[..., 3] == 64][:, :3]
    assert len(quarter) > 100
    assert quarter.amax(-1).float().quantile(0.02) > 80


@torch.no_grad()
def test_colour_depends_on_the_view():
    normal = torch.nn.functional.normalize(torch.tensor([0.35, -0.45, 0.82]), dim=0)  # towards the key light
    point = (torch.tensor(SPHERE_CENTER) + SPHERE_RADIUS * normal)[:, None]

    def seen_from(azimuth: float, elevation: float) -> torch.Tensor:
        a, e = math.radians(azimuth), math.radians(elevation)
        eye = 4 * torch.tensor([math.cos(a) * math.cos(e), math.sin(a) * math.cos(e), math.sin(e)])
        return load_procedural.shade(point, load_procedural.unit(point - eye[:, None]))[:, 0]

    torch.testing.assert_close(seen_from(-50, 50), seen_from(-50, 50), atol=0, rtol=0)
    in_highlight, beside_it = seen_from(-50, 50), seen_from(130, 20)
    assert (in_highlight - beside_it).max() > 0.1


@torch.no_grad()
def test_a_point_under_the_sphere_is_in_shadow():
    light = load_procedural.unit(torch.tensor(load_procedural.KEY_DIRECTION))
    center = torch.tensor(SPHERE_CENTER)
    t = (center[2] - load_procedural.FLOOR) / light[2]  # the floor point whose light the sphere blocks
    points = torch.stack([center - t * light, torch.tensor([0.0, -0.9, load_procedural.FLOOR])], 1)
    arriving = load_procedural.lit(points + torch.tensor([[0.0], [0.0], [2e-3]]), light[:, None])
    assert arriving[0] < 0.01 and arriving[1] > 0.9


@pytest.mark.parametrize(
    "argument, value",
    [
        ("size", 7),
        ("train_views", 0),
        ("val_views", -1),
        ("test_views", 0),
        ("path_frames", 0),
        ("supersample", 0),
    ],
)
def test_bad_input_is_named(argument, value):
    with pytest.raises(BadInput, match=f"{argument} is {value}; expected") as error:
        load_procedural_scene(**{argument: value})
    assert "\n" not in str(error.value)
