"""What a dataset reader hands over: images, cameras, bounds, and a path for the video."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass
class Cameras:
    """Pinhole cameras with OpenGL axes (x right, y up, looking along -z).

    c2w: camera-to-world `[N, 3, 4]` float32, world units. K: intrinsics `[N, 3, 3]` in pixels,
    with the principal point measured from the image's top left corner. height, width: pixels, of
    all images, or where these differ of the frame in whose top left corner each of them lies.
    sizes: height and width of each image `[N, 2]`, int64 and always on the CPU; None: all fill the frame.
    """

    c2w: torch.Tensor
    K: torch.Tensor
    height: int
    width: int
    sizes: torch.Tensor | None = None

    def __post_init__(self):
        if self.sizes is None:
            self.sizes = torch.tensor([self.height, self.width]).expand(len(self.c2w), 2)

    @classmethod
    def of_sizes(cls, c2w: torch.Tensor, K: torch.Tensor, sizes: torch.Tensor) -> "Cameras":
        """Cameras whose images have `sizes [N, 2]`, in the smallest frame that holds each."""
        return cls(c2w, K, *sizes.amax(0).tolist(), sizes)

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index) -> "Cameras":
        """The cameras at a slice, list or index tensor, in the same frame as all; a single number gives one
        camera of N = 1, and its image alone."""
        if isinstance(index, int):
            return Cameras(self.c2w[index, None], self.K[index, None], *self.size(index))
        return Cameras(self.c2w[index], self.K[index], self.height, self.width, self.sizes[index])

    def size(self, view: int) -> tuple[int, int]:
        """Height and width of one image, pixels."""
        height, width = self.sizes[view].tolist()
        return height, width

    def to(self, device: torch.device) -> "Cameras":
        return Cameras(self.c2w.to(device), self.K.to(device), self.height, self.width, self.sizes)

    def scaled(self, factor: float) -> "Cameras":
        """Cameras of one size and of the same field of view, for images `factor` times smaller on each side."""
        height, width = shrunk(self.height, factor), shrunk(self.width, factor)
        K = self.K.clone()
        K[:, 0] *= width / self.width
        K[:, 1] *= height / self.height
        return Cameras(self.c2w, K, height, width)

    def along(self, path: torch.Tensor) -> "Cameras":
        """Cameras at the poses of a path `[F, 3, 4]`: each the first here of the most common size."""
        sizes = list(map(tuple, self.sizes.tolist()))
        usual = most_common(sizes)
        return Cameras(path, self.K[sizes.index(usual), None].repeat(len(path), 1, 1), *usual)


def one_size(sizes: torch.Tensor) -> bool:
    """Whether all images of `sizes [N, 2]` have one."""
    return bool((sizes == sizes[0]).all())


def covered(sizes: torch.Tensor) -> torch.Tensor | None:
    """Which pixels `[N, H, W]` of the frame that images of `sizes [N, 2]` lie in are theirs; None: all."""
    if one_size(sizes):
        return None
    height, width = sizes.amax(0).tolist()
    in_rows, in_columns = torch.arange(height) < sizes[:, :1], torch.arange(width) < sizes[:, 1:]
    return in_rows[:, :, None] & in_columns[:, None]


def most_common(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size that most images have, the first of those that are as common."""
    return Counter(sizes).most_common(1)[0][0]


def shrunk(side: int, factor: float) -> int:
    """A side of an image, pixels, once it is `factor` times smaller."""
    return max(1, round(side / factor))


def pinhole(focal: float, height: int, width: int) -> torch.Tensor:
    """Intrinsics `[3, 3]` of a centred pinhole with `focal` in pixels."""
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)


@dataclass
class Scene:
    """A scene as the rest of the code sees it. World units are the dataset's own.

    images: uint8 `[N, H, W, 3 or 4]`; a fourth channel is straight (not premultiplied) alpha. Where
    the views differ in size each lies in its top left corner, and what is beyond is not valid.
    splits: view numbers of `train`, `val` and `test`. near, far: along the optical axis, world
    units (for `ndc` scenes: in NDC, 0 and 1). aabb: `[2, 3]`, the box that holds the content, in
    the space the field is queried in. ball: radius around the origin, world units, within which cameras stand and
    look, where what is behind has no end; None: the box holds all. background: colour behind everything, `[3]` in
    [0, 1].
    depth: exact z-depth `[N, H, W]` where a reader knows it, inf where nothing was hit. normals: of what was hit,
    likewise, `[N, H, W, 3]`, unit vectors in world space.
    valid: bool `[N, H, W]`, the pixels to learn from and to measure on; None: all.
    """

    name: str
    images: torch.Tensor
    cameras: Cameras
    splits: dict[str, list[int]]
    near: float
    far: float
    aabb: torch.Tensor
    render_path: Cameras
    ball: float | None = None
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ndc: bool = False
    depth: torch.Tensor | None = None
    normals: torch.Tensor | None = None
    valid: torch.Tensor | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def has_alpha(self) -> bool:
        return self.images.shape[-1] == 4

    def target(self, views: torch.Tensor) -> torch.Tensor:
        """Float images `[V, H, W, 3]` of some views over the scene's background."""
        return composite_over(self.images[views].float() / 255, torch.tensor(self.background))

    def picture(self, view: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`target` of one view at its own size `[h, w, 3]`, and its valid pixels `[h, w]`; None: all."""
        height, width = self.cameras.size(view)
        target = self.target(torch.tensor([view]))[0, :height, :width]
        return target, None if self.valid is None else self.valid[view, :height, :width]


def composite_over(rgba: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Straight-alpha colours `[..., 4]` over a background that broadcasts; `[..., 3]` unchanged."""
    if rgba.shape[-1] == 3:
        return rgba
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    return rgb * alpha + background.to(rgb) * (1 - alpha)
