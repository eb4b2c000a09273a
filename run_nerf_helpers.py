"""The radiance-field networks and the small functions around them, under nerf-pytorch's names.

Nothing here knows of datasets, of training or of quantised arithmetic. Shapes are written as
`[R, 3]`, with `R` rays, `S` samples on a ray and `P` points; `...` is any leading shape.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F

# ------------------------------------------------------------------------------ image measures


def img2mse(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean squared error between two tensors of one shape."""
    return torch.mean((x - y) ** 2)


BEST_PSNR = 100.0  # dB, of what is equal: infinity would leave no mean and no curve


def mse2psnr(mse: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of a *mean* squared error on colours in [0, 1]."""
    return (-10.0 * torch.log10(mse)).clamp_max(BEST_PSNR)


def to8b(x: torch.Tensor) -> torch.Tensor:
    """Colours in [0, 1] to uint8, rounded to nearest (nerf-pytorch truncates: half a level darker)."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


# -------------------------------------------------------------------------- positional encoding


class Embedder(nn.Module):
    """Fourier features of NeRF (eq. 4), laid out as nerf-pytorch lays them out.

    `[..., D] -> [..., D + 2 L D]`: the raw input, then sin and cos of `2^k x` for k < L, no pi.
    """

    def __init__(self, num_freqs: int, input_dims: int = 3):
        super().__init__()
        self.num_freqs = num_freqs
        self.out_dim = input_dims * (1 + 2 * num_freqs)
        # From a list: powers on the meta device, where skeletons are made, import seconds of torch's compiler.
        self.register_buffer("freqs", torch.tensor([2.0**octave for octave in range(num_freqs)]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = x[..., None, :] * self.freqs[:, None]  # [..., L, D]
        waves = torch.stack([angles.sin(), angles.cos()], dim=-2)  # [..., L, 2, D]
        return torch.cat([x, waves.flatten(-3)], dim=-1)


def get_embedder(multires: int, i: int = 0, input_dims: int = 3) -> tuple[nn.Module, int]:
    """The encoding of `--multires` octaves and its width; `i = -1` switches encoding off."""
    if i == -1:
        return nn.Identity(), input_dims
    embedder = Embedder(multires, input_dims)
    return embedder, embedder.out_dim


# ------------------------------------------------------------------------------------- networks


class NeRF(nn.Module):
    """The MLP of NeRF (appendix A, fig. 7), with nerf-pytorch's constructor and layer names.

    `D` layers of width `W`; the encoded position is concatenated again after each layer in
    `skips`. With `use_viewdirs` colour comes from a view branch, otherwise from `output_linear`.
    With `residual` each layer after the first adds its output to what it was given, so that what
    one layer rounds away another still sees; parameters and their names stay the same.
    """

    def __init__(
        self,
        D: int = 8,
        W: int = 256,
        input_ch: int = 3,
        input_ch_views: int = 3,
        output_ch: int = 4,
        skips: tuple[int, ...] = (4,),
        use_viewdirs: bool = False,
        residual: bool = False,
    ):
        super().__init__()
        self.D, self.W, self.residual = D, W, residual
        self.input_ch, self.input_ch_views = input_ch, input_ch_views
        self.skips = tuple(i for i in skips if i < D - 1)  # after the last layer there is none to widen
        self.use_viewdirs = use_viewdirs
        widths_in = [input_ch] + [W + input_ch if i in self.skips else W for i in range(D - 1)]
        self.pts_linears = nn.ModuleList(nn.Linear(width, W) for width in widths_in)
        # nerf-pytorch builds the view layer even where it is not used, and its checkpoints hold it.
        self.views_linears = nn.ModuleList([nn.Linear(input_ch_views + W, W // 2)])
        if use_viewdirs:
            self.feature_linear = nn.Linear(W, W)
            self.alpha_linear = nn.Linear(W, 1)
            self.rgb_linear = nn.Linear(W // 2, 3)
        else:
            self.output_linear = nn.Linear(W, output_ch)

    def trunk(self, pts: torch.Tensor) -> torch.Tensor:
        """Encoded positions `[..., input_ch]` to features `[..., W]`."""
        h = pts
        for i, layer in enumerate(self.pts_linears):
            h = join(h, F.relu(layer(h)), self.residual and i > 0)
            if i in self.skips:
                h = torch.cat([pts, h], -1)
        return h

    def raw_density(self, pts: torch.Tensor) -> torch.Tensor:
        """Encoded positions `[..., input_ch]` to density before its activation, `[...]`."""
        h = self.trunk(pts)
        return self.alpha_linear(h)[..., 0] if self.use_viewdirs else self.output_linear(h)[..., 3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., input_ch + input_ch_views]` to raw `[..., 4]`: colour logits, then density."""
        pts, views = torch.split(x, [self.input_ch, self.input_ch_views], dim=-1)
        h = self.trunk(pts)
        if not self.use_viewdirs:
            return self.output_linear(h)
        alpha = self.alpha_linear(h)
        h = torch.cat([self.feature_linear(h), views], -1)
        for layer in self.views_linears:
            h = F.relu(layer(h))
        return torch.cat([self.rgb_linear(h), alpha], -1)


def join(before: torch.Tensor, after: torch.Tensor, residual: bool) -> torch.Tensor:
    """What goes on from a layer of the trunk: its output, `after`, and if `residual` its input, less a skip's part."""
    return after + before[..., -after.shape[-1] :] if residual else after


class QuantStub(nn.Module):
    """Marks where a float tensor becomes int8: identity until `compressors.int8.prepare` fills it.

    The names are those of PyTorch's eager-mode quantisation; its own classes live in
    `torch.ao.quantization`, which is deprecated, so a network that must outlive it has ours.
    """

    def __init__(self):
        super().__init__()
        self.activation_post_process = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation_post_process(x)


class DeQuantStub(nn.Identity):
    """Marks where the integer part of the network ends and a head's float output begins."""


class QuantCat(nn.Module):
    """Concatenates quantised tensors, each keeping its own scale.

    In int8 this is a plain concatenation of the codes. The scales may differ because the next
    layer folds their ratio into its weight columns before these are quantised (see
    `compressors.fake_quantize.QATLinear`), so neither operand is rounded a second time.
    """

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return torch.cat(tensors, -1)


class NeRF_qat(NeRF):
    """`NeRF` with quantisation stubs: the whole network converts, skip and view branch included.

    Its float state dict is NeRF's own, so checkpoints move freely between the two. Until
    `compressors.int8.prepare` is called it computes exactly what NeRF computes.
    """

    def __init__(
        self,
        D: int = 8,
        W: int = 256,
        input_ch: int = 3,
        input_ch_views: int = 3,
        output_ch: int = 4,
        skips: tuple[int, ...] = (4,),
        use_viewdirs: bool = False,
        residual: bool = False,
    ):
        super().__init__(D, W, input_ch, input_ch_views, output_ch, skips, use_viewdirs, residual)
        self.quant_pts = QuantStub()
        self.quant_views = QuantStub()
        self.skip_cat = QuantCat()
        self.views_cat = QuantCat()
        self.dequant = DeQuantStub()
        # A module, not a function call, so that fusing can move it into the layer before it.
        self.pts_relus = nn.ModuleList(nn.ReLU() for _ in self.pts_linears)
        self.views_relus = nn.ModuleList(nn.ReLU() for _ in self.views_linears)

    def trunk(self, pts: torch.Tensor) -> torch.Tensor:
        h = pts = self.quant_pts(pts)
        for i, (layer, relu) in enumerate(zip(self.pts_linears, self.pts_relus, strict=True)):
            h = join(h, relu(layer(h)), self.residual and i > 0)
            if i in self.skips:
                h = self.skip_cat(pts, h)
        return h

    def raw_density(self, pts: torch.Tensor) -> torch.Tensor:
        return self.dequant(super().raw_density(pts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pts, views = torch.split(x, [self.input_ch, self.input_ch_views], dim=-1)
        h = self.trunk(pts)
        if not self.use_viewdirs:
            return self.dequant(self.output_linear(h))
        alpha = self.alpha_linear(h)
        h = self.views_cat(self.feature_linear(h), self.quant_views(views))
        for layer, relu in zip(self.views_linears, self.views_relus, strict=True):
            h = relu(layer(h))
        return self.dequant(torch.cat([self.rgb_linear(h), alpha], -1))


# ----------------------------------------------------------------------------------------- rays


def camera_rays(
    columns: torch.Tensor, rows: torch.Tensor, K: torch.Tensor, c2w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays through image points, OpenGL axes (x right, y up, the camera looks along -z).

    columns, rows: `[...]` in pixels, 0 at the image's left and top edge, so a pixel's centre is at
    +0.5. K: `[..., 3, 3]`, c2w: `[..., 3, 4]`, broadcast against them.
    Returns origins and directions `[..., 3]`. A direction has length 1 along the optical axis, so
    a distance along it is a z-depth; multiply by its norm for a distance in world units.
    """
    x = (columns - K[..., 0, 2]) / K[..., 0, 0]
    y = -(rows - K[..., 1, 2]) / K[..., 1, 1]
    in_camera = torch.stack([x, y, -torch.ones_like(x)], -1)
    directions = (c2w[..., :3, :3] @ in_camera[..., None])[..., 0]
    return c2w[..., :3, 3].expand(directions.shape), directions


def get_rays(
    H: int, W: int, K: torch.Tensor, c2w: torch.Tensor, pixel_offset: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and directions `[H, W, 3]` of the rays of a whole image.

    `pixel_offset` 0.5 goes through pixel centres; 0 is nerf-pytorch's half-pixel shift.
    """
    rows, columns = torch.meshgrid(
        torch.arange(H, device=c2w.device) + pixel_offset,
        torch.arange(W, device=c2w.device) + pixel_offset,
        indexing="ij",
    )
    return camera_rays(columns, rows, K, c2w)


def ndc_rays(
    H: int, W: int, focal: float | torch.Tensor, near: float, rays_o: torch.Tensor, rays_d: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays of a forward-facing scene in normalised device coordinates (NeRF, appendix C).

    Origins move to the plane z = -`near`; t in [0, 1] then runs from there to infinity.
    """
    rays_o = rays_o - ((near + rays_o[..., 2]) / rays_d[..., 2])[..., None] * rays_d
    x_scale, y_scale = -2.0 * focal / W, -2.0 * focal / H
    ox_oz, oy_oz = rays_o[..., 0] / rays_o[..., 2], rays_o[..., 1] / rays_o[..., 2]
    dx_dz, dy_dz = rays_d[..., 0] / rays_d[..., 2], rays_d[..., 1] / rays_d[..., 2]
    near_oz = 2.0 * near / rays_o[..., 2]
    origins = torch.stack([x_scale * ox_oz, y_scale * oy_oz, 1.0 + near_oz], -1)
    directions = torch.stack([x_scale * (dx_dz - ox_oz), y_scale * (dy_dz - oy_oz), -near_oz], -1)
    return origins, directions


def sample_pdf(
    bins: torch.Tensor,
    weights: torch.Tensor,
    N_samples: int,
    det: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Inverse-transform samples `[R, N_samples]` of a piecewise-constant density (NeRF, sec. 5.2).

    bins: edges `[R, B + 1]`, ascending. weights: `[R, B]`, need not sum to one. `det` takes evenly
    spaced quantiles, otherwise they are drawn from `generator`. No gradient flows to the weights.
    """
    weights = weights.detach() + 1e-5  # a ray that met nothing gets a uniform density, not NaN
    cdf = torch.cumsum(weights / weights.sum(-1, keepdim=True), -1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], -1)
    if det:
        u = torch.linspace(0.0, 1.0, N_samples, device=bins.device).expand(*cdf.shape[:-1], N_samples)
    else:
        shape = (*cdf.shape[:-1], N_samples)
        u = torch.rand(shape, device=bins.device, generator=generator)
    above = torch.searchsorted(cdf, u.contiguous(), right=True).clamp(1, cdf.shape[-1] - 1)
    below = above - 1
    cdf_below, cdf_above = cdf.gather(-1, below), cdf.gather(-1, above)
    width = (cdf_above - cdf_below).clamp_min(1e-5)
    return torch.lerp(bins.gather(-1, below), bins.gather(-1, above), ((u - cdf_below) / width).clamp(0, 1))


def iterate_chunks(total: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `range(total)`."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return math.ceil(value / multiple) * multiple
