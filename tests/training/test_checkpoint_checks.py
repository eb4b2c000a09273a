"""Checkpoints that say odd things under a right digest, and those of forks."""

import copy
import decimal
import math
import zipfile

import numpy as np
import pytest
import torch
from helpers import TINY, make_trainer

from compressors.kinds import COMPRESSORS
from compressors.vq import VQCompressor
from fields.tensorf import TensorfConfig, TensorVM
from fields.vq_tensorf import CODED, KEPT, VQTensorVM
from options import config_parser
from training.checkpoints import load_checkpoint, load_newest, save_checkpoint
from utils import checks
from utils.errors import BrokenFile, UserError

NAN = torch.full((3,), math.nan)
WEIGHT = "pts_linears.0.weight"


def small() -> dict:
    return {"global_step": 3, "network_fn_state_dict": {"w": torch.zeros(3)}}


def refused(path, state: dict) -> str:
    torch.save(state, path)
    return refused_file(path)


def refused_file(path) -> str:
    with pytest.raises(BrokenFile) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and message.isprintable() and len(message) < 400 + len(str(path))
    return message


# ------------------------------------------------------------------------------------ by itself


@pytest.mark.parametrize(
    "entry, value, says",
    [
        ("global_step", -1, "global_step is -1"),
        ("global_step", "\x1b[31m7", "global_step is '\\x1b[31m7'"),
        ("global_step", True, "global_step is True"),
        ("corner_rays", 1, "corner_rays is 1"),
        ("residual", torch.zeros(2, 2), "residual is a tensor (2, 2)"),
        ("phase", "a\nb", "phase is 'a\\nb'"),
        ("network_fn_state_dict", [], "network_fn_state_dict"),
        ("network_fn_state_dict", {"w": 3}, "'w' is 3"),
        ("network_fn_state_dict", {4: NAN}, "4 is a tensor"),
        ("network_fn_state_dict", {"\x1b": NAN}, "'\\x1b' holds NaN"),
        ("network_fine_state_dict", "x", "network_fine_state_dict is 'x'"),
        ("grid_state_dict", None, "grid_state_dict is None"),
        ("grid_state_dict", {"density": NAN}, "'density' holds NaN"),
        ("optimizer_state_dict", {"state": []}, "no state and param_groups"),
        ("optimizer_state_dict", {"state": {"a": {}}, "param_groups": []}, "'a' is {}"),
        (
            "optimizer_state_dict",
            {"state": {}, "param_groups": [{"params": torch.ones(2)}]},
            "no state and param_groups",
        ),
        ("optimizer_state_dict", {"state": {}, "param_groups": [{"params": 3}]}, "no state and param_groups"),
        ("muon_state_dict", None, "no state and param_groups"),
        ("scheme", 7, "scheme is 7"),
        ("identity", None, "identity is None"),
        ("trainer", [], "trainer"),
        ("trainer", {"rays": 0, "batches": {}}, "no seconds"),
        ("other", torch.eye(3).to_sparse(), "tensor (3, 3)"),
        ("other", torch.zeros(3, dtype=torch.complex64), "tensor (3,)"),
        ("other", torch.zeros(1).expand(10**9), "tensor (1000000000,)"),
        ("other", [2**70], "beyond 2^63"),
        ("other", [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]], "deep"),
    ],
)
def test_odd_entries(tmp_path, entry, value, says):
    assert says in refused(tmp_path / "000003.tar", small() | {entry: value})


@pytest.mark.parametrize(
    "entry, value",
    [
        ("seconds", -1.0), ("seconds", None), ("rays", 0.5), ("processes", 0), ("curve", [(1, 2, 3)]),
        ("curve", [("a", 1.0)]), ("scaler", 3), ("batches", None), ("generator", None),
        ("generator", torch.zeros(3)), ("samples_per_ray", 0.0), ("recent", torch.zeros(2, 2)), ("recent", [0.1]),
        ("samples_per_ray", math.nan), ("seed", "x"), ("drawable", torch.zeros(3)),
    ],
)  # fmt: skip
def test_odd_entries_of_the_trainer(tmp_path, entry, value):
    trainer = {"seconds": 1.0, "rays": 5, "processes": 1, "curve": [(1, 2.0)], "scaler": {}}
    trainer["batches"] = {"generator": torch.zeros(16, dtype=torch.uint8), "samples_per_ray": 3.0, "seed": 0}
    trainer["of_another_version"] = trainer["batches"]["candidates"] = torch.arange(3)
    save_checkpoint(tmp_path / "000001.tar", small() | {"trainer": trainer})
    load_checkpoint(tmp_path / "000001.tar")
    (trainer["batches"] if entry in ("generator", "samples_per_ray", "seed", "drawable") else trainer)[entry] = value
    assert entry in refused(tmp_path / "000003.tar", small() | {"trainer": trainer})


def test_lists_that_hold_lists_many_times_or_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "MOST_VALUES", 10_000)
    many: list = []
    for _ in range(10):
        many = [many] * 10
    endless: list = []
    endless.append(endless)
    for value in (many, endless):
        torch.save(small() | {"other": value}, tmp_path / "000003.tar")
        assert "values" in refused_file(tmp_path / "000003.tar")


def test_an_odd_newest_checkpoint_falls_back(tmp_path, capsys):
    save_checkpoint(tmp_path / "000002.tar", small())
    save_checkpoint(tmp_path / "000003.tar", small() | {"network_fn_state_dict": {"w": NAN}})
    assert load_newest(tmp_path)[0].name == "000002.tar"
    assert "000003.tar: network_fn_state_dict: 'w' holds NaN" in capsys.readouterr().out


# --------------------------------------------------------------------------------------- of forks


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_numpy_scalars(tmp_path, module):
    path = tmp_path / "000003.tar"
    numbers = {"loss": np.float32(0.5), "scores": [np.float64(2), np.int32(4)], "done": np.bool_(True)}
    torch.save(small() | {"global_step": np.int64(7), **numbers}, path, pickle_protocol=2)
    if module != "numpy._core.multiarray":  # as NumPy 1 would have written it
        with zipfile.ZipFile(path) as file:
            parts = {part.filename: file.read(part) for part in file.infolist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, content in parts.items():
                file.writestr(name, content.replace(b"numpy._core.multiarray", module.encode()))
    state = load_checkpoint(path)
    found = [state["global_step"], state["loss"], state["scores"], state["done"]]
    assert found == [7, 0.5, [2.0, 4], True]
    assert [type(value) for value in found[:2]] == [int, float] and type(found[3]) is bool


@pytest.mark.parametrize("foreign", [np.zeros(3), decimal.Decimal(1)])
def test_other_objects_are_named_without_torchs_advice(tmp_path, foreign):
    torch.save(small() | {"other": foreign}, tmp_path / "000003.tar")
    message = refused_file(tmp_path / "000003.tar")
    assert "objects of" in message and "save it again without them" in message
    assert "weights_only" not in message and "option" not in message


def test_compressed_parts_are_not_unfolded(tmp_path):
    path = tmp_path / "000003.tar"
    torch.save(small() | {"other": torch.zeros(10_000)}, path)
    with zipfile.ZipFile(path) as file:
        parts = {part.filename: file.read(part) for part in file.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    assert "compressed" in refused_file(path)


def test_names_of_data_parallel(tmp_path):
    torch.save(
        {"network_fn_state_dict": {"module.w": torch.ones(2)}, "network_fine_state_dict": None}, tmp_path / "1.tar"
    )
    assert list(load_checkpoint(tmp_path / "1.tar")["network_fn_state_dict"]) == ["w"]


# ------------------------------------------------------------------------------- against the run


@pytest.fixture(scope="module")
def trained(scene, tmp_path_factory):  # noqa: F811
    """A trainer and what it saved after three steps."""
    trainer = make_trainer(scene, tmp_path_factory.mktemp("trained"), TINY)
    for _ in range(3):
        trainer.step()
    return trainer, copy.deepcopy(trainer.state_dict())


def cut(at: str):
    """What makes one tensor an entry shorter."""
    return lambda owner: owner.update({at: owner[at][:-1]})


@pytest.mark.parametrize(
    "place, change, says",
    [
        ("", lambda state: state.pop("global_step"), "does not say its step"),
        ("network_fn_state_dict", lambda owner: owner.pop(WEIGHT), f"no {WEIGHT}"),
        ("network_fn_state_dict", cut(WEIGHT), f"{WEIGHT} is (31, 27), expected (32, 27)"),
        ("network_fn_state_dict", lambda owner: owner.update({WEIGHT: owner[WEIGHT] > 0}), "holds torch.bool"),
        ("network_fn_state_dict", lambda owner: owner.update({"\x1b": torch.ones(2)}), "unexpected '\\x1b'"),
        ("grid_state_dict", cut("density"), "density is (23, 24, 24)"),
        ("grid_state_dict", lambda owner: owner.pop("occupied"), "no occupied"),
        ("grid_state_dict", lambda owner: owner["aabb"].zero_(), "no volume"),
        ("grid_state_dict", lambda owner: owner["aabb"].mul_(1e30), "farther"),
        ("", lambda state: state.pop("muon_state_dict"), "--optimizer muon"),
        ("optimizer_state_dict", lambda owner: owner["param_groups"].pop(), "other groups"),
        ("optimizer_state_dict", lambda owner: owner["param_groups"][0]["params"].pop(), "other groups"),
        ("optimizer_state_dict.state", lambda owner: owner.update({99: owner[0]}), "a parameter 99"),
        ("optimizer_state_dict.state.0", cut("exp_avg"), "exp_avg of parameter 0"),
        ("optimizer_state_dict.state.0", lambda owner: owner.update(exp_avg=None), "exp_avg of parameter 0 is None"),
        ("optimizer_state_dict.state.0", lambda owner: owner["exp_avg_sq"].sub_(1), "impossible value"),
        ("optimizer_state_dict.state.0", lambda owner: owner.update(step=torch.tensor(-1.0)), "step of parameter 0"),
        ("optimizer_state_dict.state.0", lambda owner: owner.update(step="x"), "step of parameter 0 is 'x'"),
        ("muon_state_dict.state.0", lambda owner: owner.pop("momentum_buffer"), "momentum_buffer of parameter 0"),
        ("trainer.batches", cut("generator"), "random"),
        ("trainer.batches", lambda owner: owner["generator"].fill_(7), "random"),
        ("trainer.batches", lambda owner: owner.update(drawable=torch.zeros(5, dtype=torch.uint8)), "other images"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_run(trained, place, change, says):
    trainer, saved = trained
    state = copy.deepcopy(saved)
    owner = state
    for key in filter(None, place.split(".")):
        owner = owner[int(key) if key.isdigit() else key]
    change(owner)
    with pytest.raises(UserError) as error:
        trainer.load_state_dict(state)
    message = str(error.value)
    assert says in message and message.isprintable() and ("--" in message or "flags" in message)


def test_another_grid_resolution_names_the_flag(trained, scene, tmp_path):  # noqa: F811
    other = make_trainer(scene, tmp_path, TINY, "--grid_resolution", "16")
    with pytest.raises(BrokenFile, match="--grid_resolution 24, not 16"):
        other.load_state_dict(copy.deepcopy(trained[1]))


def test_what_a_file_says_of_rates_is_not_looked_at(trained):
    """They follow from the flags; older versions of PyTorch know fewer, and count steps in plain numbers."""
    trainer, saved = trained
    state = copy.deepcopy(saved)
    state["optimizer_state_dict"]["param_groups"][0].update(lr="x", betas=None, amsgrad=True)
    del state["optimizer_state_dict"]["param_groups"][0]["eps"]
    state["optimizer_state_dict"]["state"][0]["step"] = 3
    trainer.load_state_dict(state)
    again = trainer.state_dict()
    assert again["optimizer_state_dict"]["param_groups"] == saved["optimizer_state_dict"]["param_groups"]
    trainer.step()


def test_a_grid_that_is_not_in_the_checkpoint_stays_as_it_was_carved(trained):
    """nerf-pytorch's have none."""
    trainer, saved = trained
    state = {k: v for k, v in copy.deepcopy(saved).items() if k not in ("grid_state_dict", "trainer")}
    before = trainer.renderer.grid.occupied.clone()
    trainer.load_state_dict(state)
    assert torch.equal(trainer.renderer.grid.occupied, before)


ODD_BITS = [None, {}, {"network_fn.other": 8}, "layers", {"network_fn.rgb_linear": 99}, {"network_fn.a": torch.ones(2)}]


@pytest.mark.parametrize("quant", ["qat", "w4a8"])
@pytest.mark.parametrize("bits", ODD_BITS)
def test_bits_of_other_layers(trained, scene, bits, quant):  # noqa: F811
    args = config_parser().parse_args(TINY)
    compressor = COMPRESSORS[quant].from_flags(args, trained[0].renderer, scene.render_path, True)
    with pytest.raises(BrokenFile, match="weight_bits"):
        compressor.load_state_dict({"weight_bits": bits})


@pytest.mark.parametrize("name, value", [("weight", -1.0), ("pressure", math.nan), ("looked", None), ("first", "x")])
def test_odd_control_of_the_rate(trained, scene, name, value):  # noqa: F811
    args = config_parser().parse_args(TINY)
    compressor = VQCompressor.from_flags(args, trained[0].renderer, scene.render_path)
    state = compressor.state_dict()
    compressor.load_state_dict(state)
    with pytest.raises(BrokenFile, match=name):
        compressor.load_state_dict(state | {name: value})


def test_planes_lines_and_rows_that_do_not_belong_together():
    config = TensorfConfig(density_ranks=(1, 1, 1), color_ranks=(1, 1, 1), features=2, hidden=4)
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    network = config.make_network((3, 4, 5), box)
    assert isinstance(network, TensorVM) and not network.problem()
    for name, count in (("planes.1", 6), ("lines.2", 6), ("lines.0", 1)):
        other, state = config.make_network((3, 4, 5), box), network.state_dict()
        other.load_state_dict(state | {name: torch.zeros(count, *state[name].shape[1:])})
        assert "entries" in other.problem()
    flat = config.make_network((3, 4, 5), torch.zeros(2, 3))
    assert "no volume" in flat.problem()

    states = [torch.full(plane.shape[:2], CODED, dtype=torch.uint8) for plane in network.planes]
    states[0][0] = KEPT
    numbers = [torch.zeros((2, *state.shape), dtype=torch.long) for state in states]
    vq = VQTensorVM(network, states, [torch.zeros(1, 2)] * 3, numbers)
    assert not vq.problem()
    vq.rows_2[0, 0, 0] = 2
    assert "rows beyond the 1" in vq.problem()
