"""The command line: nerf-pytorch's flags and config files, and one-line errors."""

import argparse
import codecs
import os
import re

import pytest

from options import config_parser
from utils.parser import Switch

# Flags and defaults of nerf-pytorch's parser (github.com/yenchenlin/nerf-pytorch, run_nerf.py).
NERF_PYTORCH_DEFAULTS = {
    "basedir": "./logs/", "netdepth": 8, "netwidth": 256, "netdepth_fine": 8, "netwidth_fine": 256,
    "N_rand": 4096, "lrate": 5e-4, "lrate_decay": 250, "chunk": 32768, "netchunk": 65536,
    "no_batching": False, "no_reload": False, "ft_path": None, "N_samples": 64, "N_importance": 0,
    "perturb": 1.0, "use_viewdirs": False, "i_embed": 0, "multires": 10, "multires_views": 4,
    "raw_noise_std": 0.0, "render_only": False, "render_test": False, "render_factor": 0,
    "precrop_iters": 0, "precrop_frac": 0.5, "testskip": 8, "shape": "greek", "white_bkgd": False,
    "half_res": False, "no_ndc": False, "lindisp": False, "spherify": False, "llffhold": 8,
    "i_print": 100, "i_img": 500, "i_weights": 10000, "i_testset": 50000, "i_video": 50000,
}  # fmt: skip
# Its two kinds of config: eight Blender scenes alike, eight LLFF scenes alike.
BLENDER = dict(
    basedir="./logs", dataset_type="blender", no_batching=True, use_viewdirs=True, white_bkgd=True,
    lrate_decay=500, N_samples=64, N_importance=128, N_rand=1024, precrop_iters=500, precrop_frac=0.5,
    half_res=True,
)  # fmt: skip
LLFF = dict(
    basedir="./logs", dataset_type="llff", factor=8, llffhold=8, N_rand=1024, N_samples=64,
    N_importance=64, use_viewdirs=True, raw_noise_std=1.0,
)  # fmt: skip
SCENES = [(name, BLENDER) for name in ("chair", "drums", "ficus", "hotdog", "lego", "materials", "mic", "ship")]
SCENES += [(n, LLFF) for n in ("fern", "flower", "fortress", "horns", "leaves", "orchids", "room", "trex")]


def parse(*words: str) -> argparse.Namespace:
    return config_parser().parse_args(list(words))


def test_defaults_are_nerf_pytorchs():
    args = vars(parse())
    assert {name: args[name] for name in NERF_PYTORCH_DEFAULTS} == NERF_PYTORCH_DEFAULTS
    assert args["sampler"] == "hierarchical"


@pytest.mark.parametrize("scene, settings", SCENES, ids=[name for name, _ in SCENES])
def test_nerf_pytorchs_configs_mean_the_same(tmp_path, scene, settings):
    path = tmp_path / f"{scene}.txt"
    lines = [f"expname = {scene}_test", f"datadir = ./data/{scene}", ""]
    path.write_text("\n".join(lines + [f"{key} = {value}" for key, value in settings.items()]))
    args = vars(parse("--config", str(path)))
    assert args["expname"] == f"{scene}_test" and args["datadir"] == f"./data/{scene}"
    expected = NERF_PYTORCH_DEFAULTS | settings
    assert {name: args[name] for name in expected} == expected


def test_command_line_overrides_the_config(tmp_path):
    (tmp_path / "c.txt").write_text("N_rand = 64\nuse_viewdirs = True\n")
    args = parse("--config", str(tmp_path / "c.txt"), "--N_rand", "128")
    assert args.N_rand == 128 and args.use_viewdirs


SWITCHES = {action.dest: action.option_strings for action in config_parser()._actions if isinstance(action, Switch)}


def test_switches_are_all_flags_without_a_value():
    assert {"use_viewdirs", "white_bkgd", "random_bkgd", "no_ndc", "no_batching", "no_reload"} <= set(SWITCHES)
    others = [a for a in config_parser()._actions if a.nargs == 0 and not isinstance(a, Switch | argparse._HelpAction)]
    assert not others


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_has_an_opposite(tmp_path, name):
    on, off = SWITCHES[name]
    assert on == f"--{name}" and off == (f"--{name[3:]}" if name.startswith("no_") else f"--no_{name}")
    path = tmp_path / "c.txt"
    for lines, flags, expected in [
        ("", [], False),
        ("", [on], True),
        ("", [off], False),
        ("", [on, off], False),
        ("", [off, on], True),
        (f"{name} = True", [], True),
        (f"{name} = False", [], False),
        (f"{name} = False", [on], True),
        (f"{name} = True", [off], False),
        (f"{off[2:]} = True", [], False),
        (f"{off[2:]} = False", [], True),
        (f"{off} = False", [], True),
        (f"{off[2:]} = False", [off], False),
        (name, [], True),
        (off[2:], [on], True),
        (f"{name} = True\n{off[2:]} = True", [], False),
    ]:
        path.write_text(lines + "\n")
        assert vars(parse("--config", str(path), *flags))[name] is expected, (lines, flags)


def test_help_shows_a_switch_once():
    text = config_parser().format_help()
    assert "--[no_]use_viewdirs" in text and "--no_ndc, --ndc" in text
    assert "--no_use_viewdirs" not in text and "--no_no_" not in text


def test_home_is_expanded_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.txt").write_text("basedir = ~/runs\n")
    args = parse("--config=~/c.txt", "--ft_path=~/a.tar")
    assert [args.config, args.basedir, args.ft_path] == [str(tmp_path / name) for name in ("c.txt", "runs", "a.tar")]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_configs_of_windows_editors(tmp_path, mark, end):
    lines = ["expname = café".encode(), b"N_rand = 64", b"use_viewdirs = True"]
    (tmp_path / "c.txt").write_bytes(mark + end.join(lines))
    args = parse("--config", str(tmp_path / "c.txt"))
    assert args.expname == "café" and args.N_rand == 64 and args.use_viewdirs


@pytest.mark.parametrize(
    "content, says",
    [
        ("N_rand = 64\n".encode("utf-16"), "UTF-16"),
        (codecs.BOM_UTF16_BE + "N_rand = 64\n".encode("utf-16-be"), "UTF-16"),
        ("expname = caf\u00e9\n".encode("latin-1"), "no UTF-8 text"),
        ("expname = \u98ce\u666f\n".encode("gbk"), "no UTF-8 text"),
        (b"N_rand = 64\n\x00\xff", "no UTF-8 text"),
    ],
    ids=["UTF-16", "UTF-16 big endian", "Latin-1", "GBK", "binary"],
)
def test_configs_in_other_encodings_are_one_line(tmp_path, capsys, content, says):
    (tmp_path / "c.txt").write_bytes(content)
    with pytest.raises(SystemExit) as exit_info:
        parse("--config", str(tmp_path / "c.txt"))
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and says in message and "c.txt" in message and "UTF-8" in message, message


@pytest.mark.parametrize(
    "config, words",
    [
        ("netwdith = 128\n", ["--netwdith", "did you mean --netwidth"]),
        ("N_rand = many\n", ["N_rand", "many"]),
        ("netdepth = 2.5\n", ["netdepth", "2.5"]),
        ("sampler = fast\n", ["sampler", "fast", "occupancy"]),
        ("netwidth = 0\n", ["netwidth", "from 2 to 8192"]),
        ("weight_bits = 9\n", ["weight_bits", "9"]),
        ("white_bkgd = maybe\n", ["white_bkgd", "maybe"]),
        ("white_bkgd = [True, False]\n", ["white_bkgd", "True or False"]),
        ("no_white_bgkd = True\n", ["--no_white_bgkd", "did you mean --no_white_bkgd"]),
        (f"= {'x' * 5000}\n", ["c.txt"]),
    ],
)
def test_wrong_config_is_one_line_and_status_2(tmp_path, capsys, config, words):
    path = tmp_path / "c.txt"
    path.write_text(config)
    with pytest.raises(SystemExit) as exit_info:
        parse("--config", str(path))
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(word in message for word in words), message
    assert len(message) < 600


def test_missing_config_file_is_one_line_and_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse("--config", str(tmp_path / "none.txt"))
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "none.txt" in message


def test_what_is_trained_by_its_name_of_before(tmp_path):
    (tmp_path / "c.txt").write_text("model = tensorf\n")
    for words in (["--field", "tensorf"], ["--model", "tensorf"], ["--config", str(tmp_path / "c.txt")]):
        args = parse(*words)
        assert (args.field, args.model) == ("tensorf", None)
    args = parse("--model", "tensorf", "--model", "a.safetensors")
    assert (args.field, args.model) == ("tensorf", "a.safetensors")  # anything else is a file
    assert (parse().field, parse().model) == ("nerf", None)


def test_every_flag_is_read_somewhere(request):
    """A flag that is parsed and never read is a lie to the user."""
    root = request.config.rootpath
    folders = [root / "scripts", *(path.parent for path in root.glob("*/__init__.py"))]
    files = [*root.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    code = "".join(path.read_text() for path in files if path != root / "options.py")
    flags = [action.dest for action in config_parser()._actions if not isinstance(action, argparse._HelpAction)]
    assert len(flags) > 100 and "def from_flags" in code
    unread = [flag for flag in flags if not re.search(rf"args\.{flag}\b", code)]
    assert unread == ["shape"]  # deepvoxels' own, accepted so that a config that names it parses


def test_a_config_that_may_never_end_is_not_read(tmp_path, capsys):
    os.mkfifo(tmp_path / "c.txt")
    with pytest.raises(SystemExit) as exit_info:
        parse("--config", str(tmp_path / "c.txt"))
    assert exit_info.value.code == 2 and "no plain file" in capsys.readouterr().err
