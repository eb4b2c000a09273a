"""Small scenes, computed: the data sets that need no download.

A still life is a signed distance function (SDF), sphere-traced (Hart 1996) in torch; the other, of glossy spheres, is
in `scenes.glossy`. No file and no random number is involved. Points and directions are `[3, P]`, world units:
elementwise work on whole rows is many times faster than on three columns.
"""

import math
from functools import reduce
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F

from run_nerf_helpers import camera_rays, iterate_chunks, to8b
from scenes import glossy
from scenes.poses import look_at, orbit_path
from scenes.scene import Cameras, Scene, pinhole
from utils.errors import BadInput

NEAR, FAR, CAMERA_RADIUS = 2.0, 6.0, 4.0  # world units
FIELD_OF_VIEW = math.radians(36.0)  # horizontal
ELEVATIONS = (-5.0, 75.0)  # degrees above the horizon, of the lowest and the highest camera
AABB = ((-1.10, -1.10, -0.58), (1.10, 1.10, 0.95))

FLOOR = -0.28  # height of the plinth's top, on which everything stands
PLINTH_RADIUS, PLINTH_BOTTOM, INLAY_RADIUS, TILE = 1.06, FLOOR - 0.27, 0.91, 0.30
SPHERE_CENTER, SPHERE_RADIUS = (0.40, -0.42, FLOOR + 0.34), 0.34
COLUMN_CENTER, COLUMN_HALF_SIZE, COLUMN_ROUNDING = (-0.16, 0.28, FLOOR + 0.60), (0.19, 0.19, 0.60), 0.06
COLUMN_TWIST = 2.6  # radians per world unit of height
TORUS_CENTER, TORUS_AXIS, TORUS_RADII = (0.50, 0.42, FLOOR + 0.40), (0.8, 0.6), (0.28, 0.12)
PILL_ENDS, PILL_RADIUS = ((-0.52, -0.42, FLOOR + 0.14), (-0.17, -0.66, FLOOR + 0.14)), 0.14
GOURD_BLEND, GOURD = (
    0.15,
    ((-0.64, 0.08, FLOOR + 0.24, 0.25), (-0.64, 0.08, FLOOR + 0.57, 0.16)),
)  # x, y, z, radius

HIT_DISTANCE = 1e-4  # from a surface at which a ray has arrived, world units
STEPS_AT_ONCE, RAYS_AT_ONCE = 4, 2**18
EDGE_CONTRAST = 0.04  # spread of colour or alpha over 3x3 pixels from which a pixel is supersampled

# The scene's parts, then what is painted on them. sRGB colour, reflectance at normal incidence, Blinn-Phong
# exponent. The exponents are low on purpose: a highlight some 20 degrees wide can be learnt by a view
# branch with 4 octaves, a pinpoint cannot.
MATERIALS = {
    "plinth": ("#26376b", 0.04, 24.0),
    "sphere": ("#12908e", 0.10, 60.0),
    "column": ("#e4573d", 0.05, 30.0),
    "torus": ("#f2b134", 0.06, 40.0),
    "pill": ("#f3e7d3", 0.05, 40.0),
    "gourd": ("#7d4a86", 0.06, 40.0),
    "light tile": ("#f5ead6", 0.04, 30.0),
    "dark tile": ("#e9a8a0", 0.04, 30.0),
    "pill cap": ("#e4573d", 0.05, 40.0),
    "band": ("#e9a8a0", 0.04, 24.0),
}
NAMES = list(MATERIALS)
KEY_DIRECTION, FILL_DIRECTION = (0.50, -0.38, 0.78), (-0.66, 0.40, 0.42)  # towards the lights
KEY_COLOR, FILL_COLOR = (0.93, 0.86, 0.75), (0.16, 0.18, 0.22)  # linear, as are the next
SKY_COLOR, GROUND_COLOR = (0.41, 0.43, 0.47), (0.28, 0.24, 0.21)


def load_procedural_scene(
    size: int = 100,
    train_views: int = 60,
    val_views: int = 4,
    test_views: int = 10,
    path_frames: int = 40,
    supersample: int = 3,
    white_background: bool = True,
    kind: str = "still_life",
) -> Scene:
    """Renders a scene of KINDS from cameras on a hemisphere; the still life in some 7 s on one core at the defaults.

    size: image width and height, pixels. supersample: rays on each side of a pixel; alpha is the
    fraction of them that hit. white_background: what the images are composited over, else black.
    The test views do not depend on train_views, so runs that vary it can be compared.
    """
    least = {"size": 8, "train_views": 1, "val_views": 0, "test_views": 1, "path_frames": 1, "supersample": 1}
    given = (size, train_views, val_views, test_views, path_frames, supersample)
    for (name, low), value in zip(least.items(), given, strict=True):
        if value < low:
            raise BadInput(f"procedural scene: {name} is {value}; expected {low} or more")
    # One quasi-random sequence, so that no two views coincide: training counts up, the rest down.
    train, other = range(train_views), range(-1, -1 - test_views - val_views, -1)
    numbers = [*train, *other[test_views:], *other[:test_views]]
    K = pinhole(0.5 * size / math.tan(0.5 * FIELD_OF_VIEW), size, size)
    cameras = Cameras(camera_poses(numbers), K.repeat(len(numbers), 1, 1), size, size)
    views_at_once = max(1, RAYS_AT_ONCE // size**2)
    views = [render(cameras[part], supersample, kind) for part in iterate_chunks(len(numbers), views_at_once)]
    images, depth, normal = (torch.cat(parts) for parts in zip(*views, strict=True))
    path = orbit_path(CAMERA_RADIUS, elevation=28.0, frames=path_frames)
    views_of = iter(range(len(numbers)))
    counts = {"train": train_views, "val": val_views, "test": test_views}
    return Scene(
        name="procedural" if kind == "still_life" else kind,
        images=images,
        cameras=cameras,
        splits={split: list(islice(views_of, count)) for split, count in counts.items()},
        near=NEAR,
        far=FAR,
        aabb=torch.tensor(AABB if kind == "still_life" else glossy.AABB),
        render_path=Cameras(path, K.repeat(len(path), 1, 1), size, size),
        background=(1.0, 1.0, 1.0) if white_background else (0.0, 0.0, 0.0),
        depth=depth,
        normals=normal,
    )


def camera_poses(numbers: list[int]) -> torch.Tensor:
    """Camera-to-world `[N, 3, 4]` of members of a sequence of views that cover a hemisphere evenly.

    The sequence is additive recurrence with the plastic number, the two-dimensional kin of the
    Fibonacci spiral. Any run of consecutive members is spread evenly and no member ever repeats.
    """
    plastic = 1.324717957244746
    low, high = (math.sin(math.radians(angle)) for angle in ELEVATIONS)
    poses = []
    for n in numbers:
        azimuth = 2 * math.pi * ((n / plastic) % 1)
        z = low + (high - low) * ((0.5 + n / plastic**2) % 1)  # equal areas of a sphere have equal z
        across = math.sqrt(1 - z * z)
        eye = CAMERA_RADIUS * np.array([across * math.cos(azimuth), across * math.sin(azimuth), z])
        poses.append(look_at(eye, np.zeros(3)))
    return torch.tensor(np.stack(poses), dtype=torch.float32)


@torch.no_grad()
def render(
    cameras: Cameras, supersample: int, kind: str = "still_life"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images uint8 `[N, H, W, 4]`, straight alpha, and at the pixel centres z-depth `[N, H, W]` and normals `[..., 3]`.

    One ray through a pixel's centre is enough where the picture is smooth. Only where it is not, in
    the 3x3 pixels around an edge of shape, colour or shadow, are supersample^2 rays averaged.
    """
    count, height, width = len(cameras), cameras.height, cameras.width
    center = torch.tensor([0.5])
    rgba, depth, normal = render_rays(cameras, torch.arange(count * height * width), center, center, kind)
    planes = rgba.view(4, count, height, width)
    spread = F.max_pool2d(planes, 3, 1, 1) + F.max_pool2d(-planes, 3, 1, 1)  # largest minus smallest
    rough = (spread > EDGE_CONTRAST).any(0).flatten().nonzero()[:, 0]
    places = (torch.arange(supersample) + 0.5) / supersample
    x, y = places.repeat(supersample), places.repeat_interleave(supersample)
    for part in iterate_chunks(rough.numel(), max(1, RAYS_AT_ONCE // supersample**2)):
        pixels = rough[part]
        rays = [pixels.repeat(len(x)), x.repeat_interleave(len(pixels)), y.repeat_interleave(len(pixels))]
        rgba[:, pixels] = render_rays(cameras, *rays, kind)[0].view(4, len(x), -1).mean(1)

    rgba[:3] /= rgba[3].clamp_min(1e-6)  # averaged premultiplied, stored straight
    shape = count, height, width
    return to8b(rgba.T).view(*shape, 4), depth.view(shape), normal.T.reshape(*shape, 3)


def render_rays(
    cameras: Cameras, pixels: torch.Tensor, x: torch.Tensor, y: torch.Tensor, kind: str = "still_life"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Premultiplied sRGB and alpha (0 or 1) `[4, P]`, z-depth `[P]` and normals `[3, P]`, of one ray a pixel.

    pixels: `[P]`, numbered through all cameras. x, y: where in the pixel, 0 to 1, `[P]` or `[1]`.
    """
    columns, rows = pixels % cameras.width, pixels // cameras.width % cameras.height
    view = pixels // (cameras.width * cameras.height)
    origins, directions = camera_rays(columns + x, rows + y, cameras.K[view], cameras.c2w[view])
    origins, directions = origins.T.contiguous(), directions.T.contiguous()
    length = _length(*directions)
    directions /= length
    trace_rays, shade_points, normals_at = KINDS[kind]
    distance = trace_rays(origins, directions)
    hit = distance.isfinite().nonzero()[:, 0]
    rgba = torch.zeros(4, pixels.numel())
    seen_along = directions[:, hit]
    points = origins[:, hit] + distance[hit] * seen_along
    rgba[:3, hit] = shade_points(points, seen_along)
    rgba[3, hit] = 1.0
    normal = torch.zeros(3, pixels.numel())
    normal[:, hit] = normals_at(points)
    return rgba, distance / length, normal


# ----------------------------------------------------------------------------------------- shape


def sdf(points: torch.Tensor) -> torch.Tensor:
    """A lower bound `[P]` on the distance to the surface, negative inside; it is 1-Lipschitz."""
    return reduce(torch.minimum, part_distances(points))


def part_distances(points: torch.Tensor) -> list[torch.Tensor]:
    """`sdf` of each part alone, `[P]` each, in the order of MATERIALS."""
    x, y, z = points
    rounding, half_height = 0.06, 0.5 * (FLOOR - PLINTH_BOTTOM)
    out = _length(x, y) - (PLINTH_RADIUS - rounding)
    up = (z - (FLOOR - half_height)).abs() - (half_height - rounding)
    plinth = _length(out.clamp_min(0), up.clamp_min(0)) + torch.maximum(out, up).clamp_max(0) - rounding

    sphere = _sphere(points, *SPHERE_CENTER, SPHERE_RADIUS)

    cx, cy, cz = TORUS_CENTER
    along = (x - cx) * TORUS_AXIS[0] + (y - cy) * TORUS_AXIS[1]
    across = (y - cy) * TORUS_AXIS[0] - (x - cx) * TORUS_AXIS[1]
    torus = _length(_length(across, z - cz) - TORUS_RADII[0], along) - TORUS_RADII[1]

    (ax, ay, az), (bx, by, _) = PILL_ENDS  # it lies flat
    dx, dy = bx - ax, by - ay
    along = (((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    pill = _length(x - ax - along * dx, y - ay - along * dy, z - az) - PILL_RADIUS

    # A quadratic smooth union: its gradient is a mean of the two, so it stays 1-Lipschitz.
    belly, head = (_sphere(points, *ball) for ball in GOURD)
    overlap = (GOURD_BLEND - (belly - head).abs()).clamp_min(0)
    gourd = torch.minimum(belly, head) - overlap * overlap / (4 * GOURD_BLEND)
    return [plinth, sphere, _twisted_column(points), torus, pill, gourd]


def _length(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    total = first * first
    for other in others:
        total = total.addcmul_(other, other)
    return total.sqrt_()  # a hundred times faster here than norm(dim=0)


def _sphere(points: torch.Tensor, cx: float, cy: float, cz: float, radius: float) -> torch.Tensor:
    return _length(points[0] - cx, points[1] - cy, points[2] - cz) - radius


def _twisted_column(points: torch.Tensor) -> torch.Tensor:
    """A rounded box, twisted around z.

    Twisting stretches distances, the more the farther from the axis. So points are first moved onto
    a cylinder around the column, where the stretch (the largest singular value of the shear
    [[1, s], [0, 1]] with s = twist * radius) is bounded, and the distance is divided by it.
    """
    cx, cy, cz = COLUMN_CENTER
    half_x, half_y, half_z = COLUMN_HALF_SIZE
    reach = math.hypot(half_x, half_y)
    shear = COLUMN_TWIST * reach
    stretch = 0.5 * (shear + math.sqrt(shear * shear + 4))
    x, y, z = points[0] - cx, points[1] - cy, points[2] - cz
    radius = _length(x, y)
    inward = reach / radius.clamp_min(reach)
    angle = COLUMN_TWIST * z.clamp(-half_z, half_z)
    cos, sin = angle.cos() * inward, angle.sin() * inward
    bx = (cos * x + sin * y).abs() - (half_x - COLUMN_ROUNDING)
    by = (cos * y - sin * x).abs() - (half_y - COLUMN_ROUNDING)
    bz = z.abs() - (half_z - COLUMN_ROUNDING)
    outside = _length(bx.clamp_min(0), by.clamp_min(0), bz.clamp_min(0))
    inside = torch.maximum(torch.maximum(bx, by), bz).clamp_max(0)
    return torch.maximum((outside + inside - COLUMN_ROUNDING) / stretch, radius - reach)


# --------------------------------------------------------------------------------------- tracing


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """`[3, P]` scaled to length 1."""
    return vectors / _length(*vectors)


def trace(origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Distance `[R]` to the first surface along rays `[3, R]` with unit directions; inf where none."""
    low, high = torch.tensor(AABB)[..., None]
    at_low, at_high = (low - origins) / directions, (high - origins) / directions
    enter = torch.minimum(at_low, at_high).amax(0).clamp_min(0)
    leave = torch.maximum(at_low, at_high).amin(0)
    distance = torch.full_like(enter, math.inf)
    active = (enter < leave).nonzero()[:, 0]  # the rays still on their way
    origin, direction, t, leave = origins[:, active], directions[:, active], enter[active], leave[active]
    near = HIT_DISTANCE
    while active.numel():  # it ends, for no step of a ray that stays active is below HIT_DISTANCE
        for _ in range(STEPS_AT_ONCE):  # a step too many only sharpens a hit, so the test can wait
            step = sdf(origin + t * direction)
            t = t + step
        arrived = step < near
        near += HIT_DISTANCE / 16  # so that a ray which creeps along a surface does not do so for ever
        distance[active[arrived]] = t[arrived]
        on = (~arrived & (t < leave)).nonzero()[:, 0]
        active, origin, direction, t, leave = active[on], origin[:, on], direction[:, on], t[on], leave[on]
    return distance


# --------------------------------------------------------------------------------------- shading


def normals(points: torch.Tensor, h: float = 5e-4) -> torch.Tensor:
    """Outward unit normals `[3, P]` at surface points, by differences over a tetrahedron of size h."""
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return unit(sum(corner[:, None] * sdf(points + h * corner[:, None]) for corner in corners))


def openness(points: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Ambient occlusion `[P]`: 1 in the open, less where surfaces stand nearer than the height above."""
    occlusion = torch.zeros_like(points[0])
    for height, weight in ((0.04, 4.0), (0.11, 1.8), (0.24, 0.8), (0.42, 0.35)):
        occlusion += weight * (height - sdf(points + height * normal)).clamp_min(0)
    return torch.exp(-1.3 * occlusion)


def lit(points: torch.Tensor, toward_light: torch.Tensor) -> torch.Tensor:
    """Fraction `[P]` of the key light that arrives: the narrowest clearance on the way, as an angle."""
    clearance = torch.ones_like(points[0])
    t = torch.full_like(clearance, 0.03)
    for _ in range(18):
        d = sdf(points + t * toward_light)
        clearance = torch.minimum(clearance, 0.5 + 4.0 * d / t)
        t = t + d.clamp(0.025, 0.16)
    clearance = clearance.clamp(0, 1)
    return clearance * clearance * (3 - 2 * clearance)


def albedo_and_gloss(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Linear albedo `[3, P]`, reflectance at normal incidence `[P]` and exponent `[P]` of the surface."""
    x, y, z = points
    name = torch.stack(part_distances(points)).argmin(0)
    on_plinth, on_pill = name == NAMES.index("plinth"), name == NAMES.index("pill")
    inlay = on_plinth & (z > FLOOR - 0.01) & (_length(x, y) < INLAY_RADIUS)
    checker = ((x / TILE).floor() + (y / TILE).floor()) % 2 == 0
    name[inlay & checker] = NAMES.index("light tile")
    name[inlay & ~checker] = NAMES.index("dark tile")
    name[on_plinth & (z < FLOOR - 0.14)] = NAMES.index("band")
    (ax, ay, _), (bx, by, _) = PILL_ENDS
    name[on_pill & (_length(x - bx, y - by) < _length(x - ax, y - ay))] = NAMES.index("pill cap")
    rgb = [[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color, *_ in MATERIALS.values()]
    gloss = [gloss for _, *gloss in MATERIALS.values()]
    return (torch.tensor(rgb).T ** 2.2)[:, name], *torch.tensor(gloss).T[:, name]


def shade(points: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """sRGB `[3, P]` in [0, 1] of surface points seen along unit `directions`.

    A key light with soft shadows, a fill light, a sky that is brighter above than below; and the
    gloss, which depends on the view: Blinn-Phong of the key light, Schlick's Fresnel term for the sky.
    """
    normal = normals(points)
    albedo, reflectance, exponent = albedo_and_gloss(points)
    light, fill_light = (unit(torch.tensor(d))[:, None] for d in (KEY_DIRECTION, FILL_DIRECTION))
    key, fill, sky, ground = torch.tensor([KEY_COLOR, FILL_COLOR, SKY_COLOR, GROUND_COLOR])[..., None]
    facing = (normal * light).sum(0).clamp_min(0)
    front = (facing > 0).nonzero()[:, 0]
    facing[front] *= lit(points[:, front] + 2e-3 * normal[:, front], light)
    open_sky = openness(points, normal)

    filled = (normal * fill_light).sum(0).clamp_min(0)
    ambient = torch.lerp(ground, sky, 0.5 + 0.5 * normal[2]) + fill * filled
    irradiance = key * facing + open_sky * ambient
    cosine = -(normal * directions).sum(0)
    mirrored = directions + 2 * cosine * normal
    fresnel = reflectance + (1 - reflectance) * (1 - cosine.clamp(0, 1)) ** 5
    halfway = (normal * unit(light - directions)).sum(0).clamp_min(0)
    highlight = reflectance * (exponent + 2) / 8 * halfway**exponent * facing
    reflection = fresnel * open_sky * torch.lerp(ground, 2 * sky, (0.4 + mirrored[2]).clamp(0, 1))
    return (albedo * irradiance + key * highlight + reflection).clamp(0, 1) ** (1 / 2.2)


# Of each scene: where a ray hits it, what is seen there, and the normal there.
KINDS = {"still_life": (trace, shade, normals), "glossy": (glossy.trace, glossy.shade, glossy.normals)}
