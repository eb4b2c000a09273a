"""A run goes on only as the run it is: other data, rays, seeds and schedules are refused before anything is touched."""

import json
import shutil
from pathlib import Path

import imageio.v3 as imageio
import pytest
import torch
from helpers import TINY, fails_cleanly, run, write_blender

import run_nerf
import run_nerf_qat
from training import identity
from training.checkpoints import load_checkpoint, save_checkpoint

FEW = ["--N_iters", "4", "--qat_iters", "2", "--i_weights", "2", "--testskip", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "chair"
    write_blender(folder, 24, train_views=8, val_views=0, test_views=2)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> list:
    """The flags of a run of two steps in float and of one through rounding, both of it."""
    base = tmp_path_factory.mktemp("runs")
    flags = [*TINY, *FEW, "--datadir", data, "--basedir", base]
    assert run(run_nerf, *flags, "--expname", "float") == 0
    assert run(run_nerf_qat, *flags, "--expname", "qat") == 0
    return flags


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def is_refused(capsys, module, trained: list, expname: str, *flags: object, says: tuple[str, ...]) -> None:
    """In one line that says a way out, before a byte of the run's folder has changed."""
    folder = Path(trained[-1], expname)
    before = content(folder)
    fails_cleanly(capsys, module, *trained, "--expname", expname, *flags, says=(*says, "another --expname"))
    assert content(folder) == before


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--no_white_bkgd", "--random_bkgd"], ["--white_bkgd [1.0, 1.0, 1.0] (now [0.0, 0.0, 0.0])"]),
        (["--no_random_bkgd"], ["--random_bkgd True (now False)"]),
        (["--near", "1"], ["--near 2.0 (now 1.0)"]),
        (["--near", "1", "--far", "9"], ["--near", "--far"]),
        (["--aabb", "-1", "-1", "-1", "1", "1", "1"], ["--aabb"]),
        (["--seed", "1"], ["--seed 0 (now 1)"]),
        (["--lrate", "1e-3"], ["--lrate 0.005 (now 0.001)"]),
        (["--lrate_decay", "1"], ["--lrate_decay"]),
        (["--lrate_warmup", "10"], ["--lrate_warmup"]),
        (["--muon_lrate", "0.01"], ["--muon_lrate"]),
        (["--lrate_rule", "sqrt"], ["--lrate_rule"]),
        (["--optimizer", "adam"], ["--optimizer muon (now adam)"]),
        (["--grid_resolution", "20"], ["--grid_resolution 24 (now 20)"]),
        (["--march_step", "1"], ["--march_step"]),
        (["--perturb", "0"], ["--perturb"]),
        (["--density_bias", "0"], ["--density_bias"]),
        (["--half_res"], ["other image size", "--half_res"]),
        (["--factor", "2", "--lrate", "1"], ["--factor", "--lrate"]),
        (["--corner_rays"], ["--corner_rays"]),
        (["--residual"], ["--residual"]),
    ],
    ids=lambda value: value[0] if value[0].startswith("--") and "(" not in value[0] else "",
)
def test_other_flags(trained, capsys, flags, says):
    says = tuple(word for word in says if word not in ("--corner_rays", "--residual")) or tuple(says)
    folder = Path(trained[-1], "float")
    before = content(folder)
    fails_cleanly(capsys, run_nerf, *trained, "--expname", "float", "--N_iters", "6", *flags, says=says)
    assert content(folder) == before


def test_another_architecture_leaves_the_flags_that_were(trained, capsys):
    folder = Path(trained[-1], "float")
    before = content(folder)
    fails_cleanly(capsys, run_nerf, *trained, "--expname", "float", "--multires", "5", says=("another architecture",))
    assert content(folder) == before


def other_scene(folder: Path) -> None:
    write_blender(folder, 24, train_views=9, val_views=0, test_views=2)


def other_picture(folder: Path) -> None:
    shutil.copyfile(folder / "train" / "r_1.png", folder / "train" / "r_2.png")


def painted_over(folder: Path) -> None:
    path = folder / "train" / "r_3.png"
    image = imageio.imread(path)
    image[10:14, 10:14] = (255, 0, 0, 255)
    imageio.imwrite(path, image)


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def one_less(folder: Path) -> None:
    edit_json(folder / "transforms_train.json", lambda content: content["frames"].pop())


def moved_camera(folder: Path) -> None:
    def change(content: dict) -> None:
        content["frames"][4]["transform_matrix"][0][3] += 0.05

    edit_json(folder / "transforms_train.json", change)


def other_lens(folder: Path) -> None:
    for split in ("train", "test"):
        edit_json(folder / f"transforms_{split}.json", lambda content: content.update(camera_angle_x=0.75))


@pytest.mark.parametrize(
    "change, says",
    [
        (other_scene, "other views"),
        (other_picture, "other pictures"),
        (painted_over, "other pictures"),
        (one_less, "other views"),
        (moved_camera, "other poses"),
        (other_lens, "other lenses"),
    ],
)
@pytest.mark.parametrize("module, expname", [(run_nerf, "float"), (run_nerf_qat, "qat")], ids=["float", "qat"])
def test_other_data(trained, data, tmp_path, capsys, module, expname, change, says):
    folder = tmp_path / "other"
    shutil.copytree(data, folder)
    change(folder)
    is_refused(
        capsys, module, trained, expname, "--datadir", folder, says=(says, "scene chair, now other", "--datadir")
    )


def test_the_same_data_elsewhere_and_other_test_views_are_the_same_run(trained, data, tmp_path):
    base = tmp_path / "runs"
    shutil.copytree(Path(trained[-1]), base)
    folder = tmp_path / "moved"
    shutil.copytree(data, folder)
    (folder / "transforms_test.json").unlink()
    flags = ["--datadir", folder, "--basedir", base, "--expname", "float", "--N_iters", "6"]
    assert run(run_nerf, *trained, *flags) == 0
    assert load_checkpoint(base / "float" / "000006.tar")["global_step"] == 6


@pytest.mark.parametrize(
    "flags",
    [
        ["--N_iters", "6", "--i_print", "1", "--i_weights", "3", "--chunk", "512", "--netchunk", "512"],
        ["--N_iters", "6", "--path_frames", "1", "--render_factor", "2"],
    ],
    ids=["longer", "video"],
)  # fmt: skip
def test_what_does_not_change_what_is_learnt_is_not_held_against_a_run(trained, tmp_path, capsys, flags):
    base = tmp_path / "runs"
    shutil.copytree(Path(trained[-1]), base)
    assert run(run_nerf, *trained, "--basedir", base, "--expname", "float", *flags) == 0
    assert "was trained with" not in capsys.readouterr().out
    assert "N_iters = 6\n" in (base / "float" / "args.txt").read_text()


def test_what_may_be_changed_on_purpose_is_noted(trained, tmp_path, capsys):
    base = tmp_path / "runs"
    shutil.copytree(Path(trained[-1]), base)
    flags = ["--N_iters", "6", "--grad_clip", "1", "--samples_per_batch", "512"]
    assert run(run_nerf, *trained, "--basedir", base, "--expname", "float", *flags) == 0
    out = capsys.readouterr().out
    assert "--grad_clip 0.0 (now 1.0)" in out and "--samples_per_batch 1024 (now 512)" in out


# ----------------------------------------------------------------------------------- through rounding


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--N_iters", "6"], "--N_iters 4 (now 6)"),
        (["--weight_bits", "4"], "--weight_bits 8 (now 4)"),
        (["--quant_bits", "rgb_linear=4"], "--quant_bits [] (now ['rgb_linear=4'])"),
        (["--qat_schedule", "exponential"], "--qat_schedule"),
        (["--qat_lrate_scale", "1"], "--qat_lrate_scale"),
        (["--distill", "1"], "--distill"),
        (["--lrate", "1e-3"], "--lrate"),
        (["--quant", "ternary"], "--quant qat"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_rounding_stays_as_it_began(trained, capsys, flags, says):
    is_refused(capsys, run_nerf_qat, trained, "qat", *flags, says=(says,))


def test_a_network_taken_from_elsewhere_is_no_training_before_the_rounding(trained, capsys):
    taken = Path(trained[-1], "float", "000004.tar")
    is_refused(capsys, run_nerf_qat, trained, "qat", "--ft_path", taken, says=("--N_iters 4 (now 0)",))


def test_longer_through_rounding_goes_on(trained, tmp_path):
    base = tmp_path / "runs"
    shutil.copytree(Path(trained[-1]), base)
    assert run(run_nerf_qat, *trained, "--basedir", base, "--expname", "qat", "--qat_iters", "4") == 0
    assert load_checkpoint(base / "qat" / "000008.tar")["phase"] == "qat"


def test_rounding_may_be_chosen_as_long_as_training_is_in_float(trained, tmp_path, capsys):
    base = tmp_path / "runs"
    shutil.copytree(Path(trained[-1]), base)
    flags = ["--expname", "float", "--weight_bits", "4", "--qat_schedule", "exponential", "--N_iters", "5"]
    assert run(run_nerf_qat, *trained, "--basedir", base, *flags) == 0
    assert "resuming from" in capsys.readouterr().out


# ----------------------------------------------------------------------------- what is not such a run


def test_ft_path_takes_networks_of_any_scene(trained, data, tmp_path):
    other_scene(tmp_path / "other")
    taken = Path(trained[-1], "float", "000004.tar")
    flags = [
        "--datadir",
        tmp_path / "other",
        "--ft_path",
        taken,
        "--basedir",
        tmp_path,
        "--seed",
        "3",
        "--lrate",
        "1e-3",
    ]
    assert run(run_nerf, *trained, *flags) == 0


def test_no_reload_starts_anew(trained, tmp_path):
    base = tmp_path / "runs"
    shutil.copytree(Path(trained[-1]), base)
    assert run(run_nerf, *trained, "--basedir", base, "--expname", "float", "--seed", "1", "--no_reload") == 0
    assert load_checkpoint(base / "float" / "000004.tar")["identity"]["seed"] == 1


@pytest.mark.parametrize("flags", [["--render_only"], ["--plot_cameras"]], ids=lambda flags: flags[0])
def test_what_trains_nothing_refuses_nothing_and_leaves_the_flags_that_were(trained, tmp_path, flags):
    base = tmp_path / "runs"
    shutil.copytree(Path(trained[-1]), base)
    before = (base / "float" / "args.txt").read_bytes()
    others = ["--near", "1", "--far", "9", "--lrate", "1"]
    assert run(run_nerf, *trained, "--basedir", base, "--expname", "float", *others, *flags) == 0
    assert (base / "float" / "args.txt").read_bytes() == before


@pytest.mark.parametrize("flags", [[], ["--render_only"]], ids=["training", "rendering"])
def test_the_float_command_does_not_take_a_network_that_rounds(trained, capsys, flags):
    is_refused(capsys, run_nerf, trained, "qat", *flags, says=("run_nerf_qat.py --quant qat",))


def test_a_checkpoint_from_before_goes_on(trained, tmp_path):
    """One that knows nothing of its run, nor of the steps since its curve's last point."""
    base = tmp_path / "runs"
    shutil.copytree(Path(trained[-1]), base)
    for path in (base / "float").glob("*.tar"):
        state = load_checkpoint(path)
        del state["identity"], state["trainer"]["recent"]
        save_checkpoint(path, state)
    flags = ["--expname", "float", "--N_iters", "6", "--seed", "1", "--lrate", "1e-3"]
    assert run(run_nerf, *trained, "--basedir", base, *flags) == 0
    state = load_checkpoint(base / "float" / "000006.tar")
    assert state["identity"]["lrate"] == 1e-3 and len(state["trainer"]["recent"]) == 2


@pytest.mark.parametrize(
    "name, value",
    [
        ("seed", torch.zeros(3)),
        ("seed", [torch.zeros(2), torch.ones(2)]),
        ("seed", "x" * 10000),
        ("near", "two"),
        ("near", torch.tensor(2 + 1j)),
        ("poses", torch.zeros(0)),
        ("pictures", torch.zeros(8, 16, 16, 4)),
        ("upsample_steps", None),
        ("scene", {1: 2}),
        (None, [1, 2]),
    ],
)
def test_an_identity_of_odd_content_is_one_line(trained, tmp_path, capsys, name, value):
    base = tmp_path / "runs"
    shutil.copytree(Path(trained[-1], "float"), base / "float")
    path = base / "float" / "000004.tar"
    state = load_checkpoint(path)
    if name is None:
        state["identity"] = value
    else:
        state["identity"] |= {name: value, "views": 7}
    save_checkpoint(path, state)
    status = run(run_nerf, *trained, "--basedir", base, "--expname", "float")
    out, error = capsys.readouterr()
    if status == 0:  # what no checkpoint of ours can hold is passed over for the one before
        assert "000004.tar" in out and "trying the one before" in out
    else:
        assert status == 2 and error.count("\n") == 1 and "000004.tar" in error and len(error) < 1000


def test_what_other_machines_make_of_the_same_data_is_the_same():
    image = torch.randint(0, 256, (40, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    near = image.to(torch.int16) + torch.randint(-1, 2, image.shape, generator=torch.Generator().manual_seed(1))
    before, now = identity.thumbnail(image), identity.thumbnail(near.clamp(0, 255).to(torch.uint8))
    assert not torch.equal(before, now) and not identity.differ("pictures", before, now)
    pose = torch.tensor([0.1, 4.0311289])
    assert not identity.differ("poses", pose, pose + 1e-6) and identity.differ("poses", pose, pose + 1e-3)
