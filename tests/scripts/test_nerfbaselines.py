"""NeRF-QAT as a method of NerfBaselines, which need not be there: data sets are dictionaries, its base class empty."""

import importlib
import json
import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from capture_files import FARTHEST, NEAREST, made_up_poses, write_llff
from helpers import CPU, TINY, run, same

import run_nerf_qat
from deploy.model_file import load_renderer, read_model
from load_llff import load_llff_scene
from load_procedural import load_procedural_scene
from load_scene import load_scene
from options import config_parser
from rendering.renderer import render_image
from scenes.capture_frame import CAMERA_RADIUS
from scenes.poses import look_at
from scripts.nerfbaselines_scene import cameras_of, scene_of_dataset
from scripts.stepped_run import SteppedRun
from training.checkpoints import load_checkpoint
from utils.errors import BadInput, BrokenFile

FLAGS = [*TINY, "--N_iters", "6", "--qat_iters", "4", "--i_weights", "0", "--testskip", "8"]


@dataclass
class PretendCameras:
    """What of NerfBaselines' cameras is used: OpenCV's axes, sizes as width and height."""

    poses: np.ndarray
    intrinsics: np.ndarray
    camera_models: np.ndarray
    image_sizes: np.ndarray
    nears_fars: np.ndarray | None

    def __getitem__(self, index) -> "PretendCameras":
        bounds = None if self.nears_fars is None else self.nears_fars[index]
        parts = (self.poses, self.intrinsics, self.camera_models, self.image_sizes)
        return PretendCameras(*(part[index] for part in parts), bounds)

    def item(self) -> "PretendCameras":
        return self if self.poses.ndim == 2 else self[0]


def dataset_of(images, c2w, K, bounds=None, **metadata) -> dict:
    """A dataset of images uint8 `[H, W, C]` each, our poses `[N, 3, 4]` and intrinsics `[N, 3, 3]`."""
    images = [np.asarray(image) for image in images]
    K = np.asarray(K)
    cameras = PretendCameras(
        poses=(np.asarray(c2w, np.float64) * [1, -1, -1, 1]).astype(np.float32),
        intrinsics=np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], -1),
        camera_models=np.zeros(len(images), np.int32),
        image_sizes=np.array([image.shape[1::-1] for image in images], np.int32),
        nears_fars=None if bounds is None else np.tile(np.array(bounds, np.float32), (len(images), 1)),
    )
    return {"cameras": cameras, "images": images, "masks": None, "metadata": metadata}


def still_life() -> dict:
    """The training views of the built-in scene."""
    scene = load_procedural_scene(24)
    train = scene.splits["train"]
    white = np.array([255, 255, 255], np.uint8)
    cameras = scene.cameras[train]
    return dataset_of(scene.images[train], cameras.c2w, cameras.K, (2, 6), background_color=white, scene="still_life")


def ring(sizes=((20, 16),) * 8) -> dict:
    """Photographs without alpha, of `sizes` (width, height), from round the point (10, 20, 30)."""
    center, random = np.array([10.0, 20.0, 30.0]), np.random.default_rng(0)
    turns = np.linspace(0, 2 * np.pi, len(sizes), endpoint=False)
    eyes = [center + [7 * np.cos(turn), 7 * np.sin(turn), 1] for turn in turns]
    images = [random.integers(0, 256, (height, width, 3), np.uint8) for width, height in sizes]
    K = [[[20, 0, width / 2], [0, 20, height / 2], [0, 0, 1]] for width, height in sizes]
    return dataset_of(images, [look_at(eye, center) for eye in eyes], K)


# ----------------------------------------------------------------------------------------- scenes


def test_a_cut_out_subject_stays_where_it_is():
    expected, dataset = load_procedural_scene(24, white_background=True), still_life()
    scene, move = scene_of_dataset(dataset, "still_life")
    train = expected.splits["train"]
    assert torch.equal(scene.images, expected.images[train]) and scene.has_alpha
    torch.testing.assert_close(scene.cameras.c2w, expected.cameras.c2w[train])
    torch.testing.assert_close(scene.cameras.K, expected.cameras.K[train])
    assert scene.background == (1, 1, 1) and scene.ball is None and not scene.ndc
    assert (scene.near, scene.far, scene.aabb.tolist()) == (2, 6, [[-1.5] * 3, [1.5] * 3])
    assert (move.scale, move.center.tolist()) == (1, [0, 0, 0])
    assert scene.splits == {"train": list(range(len(train))), "val": [], "test": []}


def test_a_forward_facing_scene_is_what_our_reader_makes_of_it(tmp_path):
    expected = load_llff_scene(write_llff(tmp_path))
    bounds = (NEAREST, FARTHEST)
    dataset = dataset_of(expected.images, made_up_poses(), expected.cameras.K, bounds, type="forward-facing")
    scene, move = scene_of_dataset(dataset, "scene")
    assert scene.ndc and (scene.near, scene.far) == (0, 1) and torch.equal(scene.images, expected.images)
    for name in ("c2w", "K"):
        ours, theirs = getattr(scene.cameras, name), getattr(expected.cameras, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scene.aabb, expected.aabb, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scene.render_path.c2w, expected.render_path.c2w, rtol=1e-4, atol=1e-4)
    assert move.scale == pytest.approx(1 / (0.75 * NEAREST))


def test_any_other_capture_is_moved_to_the_origin():
    dataset = ring()
    scene, move = scene_of_dataset(dataset, "scene")
    eyes = scene.cameras.c2w[:, :, 3]
    torch.testing.assert_close(eyes.norm(dim=-1), torch.full((8,), CAMERA_RADIUS), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scene.cameras.c2w[:, :, 2], eyes / CAMERA_RADIUS, rtol=1e-4, atol=1e-4)
    assert scene.ball == CAMERA_RADIUS and scene.aabb.tolist() == [[-8] * 3, [8] * 3]
    np.testing.assert_allclose(move.center, [10, 20, 30], atol=1e-4)
    again = cameras_of(dataset["cameras"][3][None], move)
    torch.testing.assert_close(again.c2w[0], scene.cameras.c2w[3])
    assert (again.height, again.width) == (16, 20)


def test_sizes_and_masks_say_what_is_learnt_from():
    dataset = ring([(20, 16), (18, 12)] * 4)
    mask = np.ones((16, 20), bool)
    mask[3, 5] = False
    dataset["masks"] = [mask, np.ones((12, 18), bool)] * 4
    dataset["images"][1] = np.pad(dataset["images"][1], ((0, 4), (0, 2), (0, 0)))  # as in a stack of one size
    scene, _ = scene_of_dataset(dataset, "scene")
    assert scene.images.shape == (8, 16, 20, 3) and scene.cameras.sizes.tolist() == [[16, 20], [12, 18]] * 4
    assert not scene.valid[0, 3, 5] and scene.valid[0].sum() == 319
    assert scene.valid[1].sum() == 12 * 18 and scene.valid[1, :12, :18].all()
    assert np.array_equal(scene.images[0].numpy(), dataset["images"][0])


def test_what_is_not_supported_is_said():
    def refused(dataset: dict, says: str) -> None:
        with pytest.raises(BadInput, match=says):
            scene_of_dataset(dataset, "scene")

    fisheye, linear, unbounded, broken = ring(), ring(), ring(), ring()
    fisheye["cameras"].camera_models[2] = 2
    refused(fisheye, "expected pinholes")
    linear["images"][1] = linear["images"][1].astype(np.float32)
    refused(linear, "image 1 is float32")
    unbounded["metadata"]["type"] = "forward-facing"
    refused(unbounded, "without nears and fars")
    broken["cameras"].poses[4, 0, 0] = np.nan
    refused(broken, "pose 4 holds NaN")


# ------------------------------------------------------------------------------------ step by step


def stepped(*more: str, quantised: bool = True) -> SteppedRun:
    args = config_parser().parse_args([*FLAGS, *more])
    return SteppedRun(args, load_scene(args), CPU, quantised)


@pytest.mark.parametrize("quant, name", [("qat", "int8"), ("ternary", "ternary")])
def test_steps_make_the_file_that_the_command_makes(tmp_path, quant, name):
    """Bit for bit, through both phases."""
    assert run(run_nerf_qat, *FLAGS, "--quant", quant, "--basedir", tmp_path, "--expname", "run") == 0
    mine = stepped("--quant", quant)
    assert mine.steps == 10 and not mine.rounds
    while mine.done < mine.steps:
        mine.step()
    expected = tmp_path / "run" / f"model_{name}.safetensors"
    mine.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == expected.read_bytes()


def test_float_is_all_unless_rounding_is_asked_for():
    mine = stepped(quantised=False)
    for _ in range(mine.steps):
        mine.step()
    assert mine.done == 6 and not mine.rounds


@pytest.mark.parametrize("saved_at", [4, 8], ids=["in float", "while rounding"])
def test_it_goes_on_from_what_it_saved(tmp_path, saved_at):
    whole = stepped()
    while whole.done < whole.steps:
        if whole.done == saved_at:
            whole.save(tmp_path / "half")
        whole.step()
    resumed = stepped()
    resumed.resume(tmp_path / "half")
    assert resumed.done == saved_at and resumed.rounds == (saved_at > 6)
    while resumed.done < resumed.steps:
        resumed.step()
    states = [one.trainer.state_dict() for one in (whole, resumed)]
    for state in states:
        state["trainer"].pop("seconds")
    assert same(*states) and whole.model() == resumed.model()


def test_what_cannot_be_stepped_is_said(tmp_path):
    for flags, says in ((["--quant", "ptq"], "--quant ptq"), (["--distill", "1"], "--distill")):
        with pytest.raises(BadInput, match=says):
            stepped(*flags)
    with pytest.raises(BrokenFile, match="no whole checkpoint"):
        stepped().resume(tmp_path)


# -------------------------------------------------------------------------------------- the method


@pytest.fixture
def method(monkeypatch):
    """The method's class, of a NerfBaselines that is empty."""
    pretend = types.ModuleType("nerfbaselines")
    pretend.Method, pretend.RenderOutput, pretend.MethodInfo, pretend.ModelInfo = object, dict, dict, dict
    monkeypatch.setitem(sys.modules, "nerfbaselines", pretend)
    monkeypatch.delitem(sys.modules, "scripts.nerfbaselines_method", raising=False)
    yield importlib.import_module("scripts.nerfbaselines_method")
    sys.modules.pop("scripts.nerfbaselines_method", None)


def overrides(tmp_path, **more) -> dict:
    """FLAGS as a config file, and more."""
    lines: list[str] = []
    for word in FLAGS:
        if word.startswith("--"):
            lines.append(f"{word[2:]} = True")
        else:
            lines[-1] = lines[-1].replace("= True", f"= {word}")
    (tmp_path / "tiny.txt").write_text("\n".join(lines))
    return {"config": str(tmp_path / "tiny.txt"), **more}


@pytest.mark.parametrize("quant", [None, "qat"], ids=["float", "int8"])
def test_the_method_trains_saves_and_loads(method, tmp_path, quant):
    dataset = still_life()
    flags = overrides(tmp_path, **({"quant": quant} if quant else {}))
    model = method.NeRFQAT(train_dataset=dataset, config_overrides=flags)
    info = model.get_info()
    assert info["num_iterations"] == (10 if quant else 6) and info["loaded_step"] is None
    for step in range(info["num_iterations"]):
        losses = model.train_iteration(step)
    assert losses["num_rays"] > 0 and np.isfinite(losses["psnr"])
    seen = model.render(dataset["cameras"][1])
    assert seen["color"].shape == (24, 24, 3) and seen["depth"].shape == seen["accumulation"].shape == (24, 24)
    model.save(str(tmp_path / "saved"))
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {f"{info['num_iterations']:06d}.tar", "model.safetensors", "nerf_qat.json"}

    # From the file alone, saved again as it is, and with the data to go on.
    loaded = method.NeRFQAT(checkpoint=str(tmp_path / "saved"))
    assert loaded.get_info()["loaded_step"] == info["num_iterations"] == loaded.get_info()["num_iterations"]
    assert same({k: torch.tensor(v) for k, v in loaded.render(dataset["cameras"][1]).items()},
                {k: torch.tensor(v) for k, v in seen.items()})  # fmt: skip
    loaded.save(str(tmp_path / "again"))
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes()
    assert read_model(tmp_path / "saved" / "model.safetensors")[0]["precision"] == ("int8" if quant else "float32")
    resumed = method.NeRFQAT(checkpoint=str(tmp_path / "saved"), train_dataset=dataset)
    np.testing.assert_array_equal(resumed.render(dataset["cameras"][1])["color"], seen["color"])
    resumed.train_iteration(info["num_iterations"])
    assert resumed.run.done == info["num_iterations"] + 1
    assert (
        load_checkpoint(tmp_path / "saved" / f"{info['num_iterations']:06d}.tar")["global_step"] == resumed.run.done - 1
    )


def test_what_is_rendered_is_the_file_in_the_datasets_units(method, tmp_path):
    """Of a capture that was scaled: depth comes back in its units."""
    bounds = {"near": 0.5, "far": 12, "aabb": [-3, -3, -2, 3, 3, 2]}
    dataset, flags = ring(), overrides(tmp_path, **bounds)
    model = method.NeRFQAT(train_dataset=dataset, config_overrides=flags)
    scene = model.run.run.scene
    assert (scene.near, scene.far, scene.aabb.flatten().tolist()) == (0.5, 12, bounds["aabb"])
    model.train_iteration(0)
    model.save(str(tmp_path))
    renderer, _, _ = load_renderer(tmp_path / "model.safetensors", CPU)
    expected = render_image(renderer, cameras_of(dataset["cameras"][2][None], model.move))
    seen = model.render(dataset["cameras"][2])
    np.testing.assert_allclose(seen["color"], expected.rgb.clamp(0, 1), atol=1e-6)
    np.testing.assert_allclose(seen["depth"], expected.depth * 7.07 / CAMERA_RADIUS, rtol=1e-2)
    frame = json.loads((tmp_path / "nerf_qat.json").read_text())["frame"]
    assert frame["scale"] == model.move.scale


def test_flags_become_words(method):
    given = {"config": "configs/lego_qat.txt", "amp": "off", "use_viewdirs": True, "no_ndc": "False", "scales": [1, 2]}
    config, *others = method.words(given | {"proposal_bins": "[64,32]"})
    assert config.endswith("configs/lego_qat.txt")
    assert others == ["--amp=off", "--use_viewdirs", "--ndc", "--scales", "1", "2", "--proposal_bins", "64", "32"]
    config_parser().parse_args([config, *others])


def test_presets_name_configs_that_are_there(monkeypatch, request):
    specs = []
    pretend = types.ModuleType("nerfbaselines")
    pretend.register = specs.append
    monkeypatch.setitem(sys.modules, "nerfbaselines", pretend)
    monkeypatch.delitem(sys.modules, "scripts.nerfbaselines_spec", raising=False)
    importlib.import_module("scripts.nerfbaselines_spec")  # what it does, it does as it is imported
    (spec,) = specs
    module, name = spec["method_class"].split(":")
    source = (request.config.rootpath / f"{module.replace('.', '/')}.py").read_text()
    assert f"class {name}(" in source
    configs = [preset["config"] for preset in spec["presets"].values() if "config" in preset]
    assert len(configs) == 3 and all((request.config.rootpath / config).is_file() for config in configs)
    assert spec["presets"]["int8"]["quant"] == "qat"
