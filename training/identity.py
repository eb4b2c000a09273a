"""What makes a run the run it is: its pictures, cameras, background, bounds, seed, samples and schedule.

A checkpoint keeps it, so that a run goes on only with what it began with. Not held against a run: what does not change
what is learnt (devices, logging, chunks), and how long it trains.
"""

from pathlib import Path

import cv2
import torch

from scenes.scene import Scene
from utils.errors import BadInput
from utils.files import file_digest

THUMBNAIL = 16  # pixels on each side that a training picture is averaged to
PICTURES_AGREE = 2  # levels of 255 by which these may differ: other machines decode and shrink a little differently
NUMBERS_AGREE = 1e-4  # share of the largest number by which poses and bounds may, for the same reason

# What is known of the scene, and the flags that change it.
OF_DATA = {
    "views": "--datadir, --llffhold",
    "image_size": "--datadir, --factor, --half_res",
    "pictures": "--datadir",
    "valid": "--datadir",
    "poses": "--datadir, --spherify, --no_ndc",
    "lenses": "--datadir",
}
OF_RAYS = {"background": "--white_bkgd", "near": "--near", "far": "--far", "box": "--aabb", "ball": "--contract"}
# Flags that must stay: random numbers, colours behind, what a density means, where samples are, the schedule.
FIXED = (
    "seed", "scales", "scale_weights", "random_bkgd", "density_activation", "density_bias", "density_scale",
    "sampler", "N_samples", "lindisp", "perturb", "raw_noise_std", "grid_resolution", "march_step", "cone_steps",
    "proposal_bins", "final_bins", "ray_warp", "opaque", "anneal_share", "no_hull", "no_dilation", "contract",
    "mip_directions", "exposure",
    "optimizer", "lrate", "muon_lrate", "lrate_decay", "lrate_warmup", "lrate_rule", "lrate_batch",
    "voxels", "voxels_final", "upsample_steps", "shrink_step",
    "ray_points", "ray_span", "ray_every", "pseudo_views", "pseudo_zoom",
)  # fmt: skip
# Those that must once training goes through rounding; before that they may still be chosen.
FIXED_IN_ROUNDING = (
    "qat_lrate_scale", "qat_schedule", "qat_freeze", "distill", "weight_bits", "activation_bits", "quant_bits",
    "quant_budget", "bit_ends", "bit_ramp", "no_bit_norm", "vq_keep", "vq_prune", "codebook_size", "target_bytes",
    "rate_weight",
)  # fmt: skip
# Those that someone may change on purpose, to get out of trouble: said, no more.
NOTED = (
    "samples_per_batch", "N_rand", "empty_samples", "no_batching", "precrop_iters", "precrop_frac", "filter_rays",
    "grad_clip", "amp", "grid_interval", "grid_start", "grid_threshold", "min_transmittance", "l1_weight", "tv_weight",
    "distortion_weight", "real", "hard_rays",
)  # fmt: skip


def run_identity(flags: dict, scene: Scene, rounding: bool) -> dict:
    """What a checkpoint is to remember: numbers, words and small tensors, by the names in the tables above.

    flags: values by name. rounding: whether it is one of training through rounding, whose schedule begins where float
    training ended.
    """
    train = scene.splits["train"]
    known = {
        "scene": scene.name,
        "views": len(train),
        "image_size": list(scene.images[train[0]].shape),
        "pictures": torch.stack([thumbnail(scene.images[view]) for view in train]),
        "poses": scene.cameras.c2w[train].clone(),
        "lenses": scene.cameras.K[train].clone(),
        "background": torch.tensor(scene.background),
        "near": torch.tensor(float(scene.near)),
        "far": torch.tensor(float(scene.far)),
        "box": scene.aabb.clone(),
        "ball": torch.tensor(scene.ball or 0.0),
        "valid": None,
    }
    if scene.valid is not None:
        known["valid"] = torch.stack([thumbnail(scene.valid[view].byte() * 255) for view in train])
    known |= {flag: flags[flag] for flag in (*FIXED, *NOTED)}
    known["teacher"] = file_digest(flags["teacher"]) if flags["teacher"] else None
    if rounding:
        known |= {flag: flags[flag] for flag in FIXED_IN_ROUNDING}
        known["N_iters"] = float_steps(flags)
    return known


def float_steps(flags: dict) -> int:
    """After how many steps training through rounding begins."""
    return 0 if flags["ft_path"] else flags["N_iters"]


def thumbnail(image: torch.Tensor) -> torch.Tensor:
    """uint8 `[H, W]` or `[H, W, C]`, averaged to THUMBNAIL x THUMBNAIL; of a large image every few pixels."""
    stride = max(1, min(image.shape[:2]) // (8 * THUMBNAIL))
    some = image[::stride, ::stride].contiguous().numpy()
    return torch.from_numpy(cv2.resize(some, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA))


def check_phase(phase: str, path: Path, state: dict) -> None:
    """Raises BadInput where a checkpoint is of training through another rounding than the command's own `phase`,
    "float" if it has none. What is trained in float yet is everyone's."""
    stored = state.get("phase", "float")
    if stored not in ("float", phase):
        command = "run_vq.py" if stored == "vq" else f"run_nerf_qat.py --quant {shown(stored)}"
        raise BadInput(f"{path}: belongs to a run of {command}; choose another --expname")


def check_same_run(flags: dict, scene: Scene, path: Path, state: dict) -> None:
    """Raises BadInput where a checkpoint is of another run than the flags describe, and notes what has changed
    otherwise. Checkpoints that know nothing of their run pass."""
    before = state.get("identity", {})
    now = run_identity(flags, scene, rounding=state.get("phase", "float") != "float")
    changed = [name for name in now if name in before and differ(name, before[name], now[name])]
    data = [name for name in OF_DATA if name in changed]
    if data:
        scenes = ", now ".join(dict.fromkeys((shown(before.get("scene")), shown(now["scene"]))))
        reasons = [f"other {' and '.join(data).replace('_', ' ')} (scene {scenes}; {OF_DATA[data[0]]})"]
    else:  # of other data these follow
        reasons = [_changed(flag, before[name], now[name]) for name, flag in OF_RAYS.items() if name in changed]
    fixed = (*FIXED, *FIXED_IN_ROUNDING, "N_iters", "teacher")
    reasons += [_changed(f"--{flag}", before[flag], now[flag]) for flag in fixed if flag in changed]
    if reasons:
        raise BadInput(
            f"{path}: was trained with {', '.join(reasons)}; give the same again, or choose another --expname "
            "(--no_reload starts anew in this one)"
        )
    notes = [_changed(f"--{flag}", before[flag], now[flag]) for flag in NOTED if flag in changed]
    if notes:
        print(f"note: {path}: was trained with {', '.join(notes)}; from here on it is the new value")


def differ(name: str, before, now) -> bool:
    """Whether two values of one name are not the same, but for what machines make of them."""
    if not isinstance(now, torch.Tensor):
        return not is_plain(before) or before != now
    if not isinstance(before, torch.Tensor) or before.shape != now.shape or before.dtype != now.dtype:
        return True
    before, now = before.double(), now.double()
    agree = PICTURES_AGREE if name in ("pictures", "valid") else NUMBERS_AGREE * float(now.abs().max())
    return not bool(((before - now).abs() <= agree).all())


def is_plain(value) -> bool:
    """Whether a value out of a file can be compared as flags are: a number, a word, nothing, or a list of these."""
    return all(map(is_plain, value)) if isinstance(value, list) else isinstance(value, int | float | str | None)


def _changed(flag: str, before, now) -> str:
    return f"{flag} {shown(before)} (now {shown(now)})"


def shown(value) -> str:
    if isinstance(value, torch.Tensor):
        value = [float(f"{number:.5g}") for number in value.flatten()[:6].tolist()]
        value = value[0] if len(value) == 1 else value
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(value).split()))
    return text if len(text) <= 60 else f"{text[:60]}..."
