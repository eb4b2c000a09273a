"""run_compare.py on hand-made metrics.json files, and on one that a real run wrote."""

import csv
import json
import re
import sys

import imageio.v2 as imageio
import pytest
from conftest import ROOT
from helpers import TINY, fails_cleanly, run

import run_compare
import run_nerf
from evaluation.comparison import Row, collect_rows, mean_row, pareto_front, read_run, scene_row

DEVICE = "CPU of nobody"


def entry(psnr: float | None, size: int, file: str | None = "model.safetensors", **more) -> dict:
    """A model in metrics.json; `file` None is a model that was measured without one."""
    measured = {"psnr": psnr, "ssim": 0.9, "lpips": None, "seconds_per_frame": 0.25}
    measured |= {"views": 2, "height": 4, "width": 6} | more
    return {**measured, "file": file, "bytes": size} if file else measured


def make_run(folder, models: dict, seconds: float = 90.0, args: str | None = None):
    """A finished run's folder."""
    folder.mkdir(parents=True)
    content = {"expname": folder.name, "device": DEVICE, "train": {"seconds": seconds}, "models": models}
    (folder / "metrics.json").write_text(json.dumps(content))
    if args is not None:
        (folder / "args.txt").write_text(args)
    return folder


def row(run: str, size: int, psnr: float | None) -> Row:
    return Row(run, "int8", psnr, None, None, size, None, None, None, None, ROOT / "nothing", {})


def table(text: str) -> list[list[str]]:
    """The rows of a Markdown table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# ----------------------------------------------------------------------------------------- the maths


def test_a_pareto_front_by_hand():
    rows = [
        row("large and best", 900, 34.0), row("smallest", 100, 30.0), row("as large, worse", 400, 31.0),
        row("middle", 400, 33.0), row("larger, no better", 500, 33.0), row("not measured", 50, None),
        row("larger, worse", 600, 29.0), row("equal to the middle", 400, 33.0),
    ]  # fmt: skip
    names = [row.run for row in pareto_front(rows)]
    assert names == ["smallest", "middle", "equal to the middle", "large and best"]
    assert pareto_front([]) == []


def test_no_row_of_a_front_is_beaten_and_every_other_is():
    rows = [row(f"{size} {psnr}", size, psnr) for size in range(1, 7) for psnr in ((size * 7) % 5, (size * 3) % 4)]
    front = pareto_front(rows)

    def beaten(a: Row) -> bool:
        return any((b.bytes, -b.psnr) != (a.bytes, -a.psnr) and b.bytes <= a.bytes and b.psnr >= a.psnr for b in rows)

    assert [beaten(a) for a in rows] == [a not in front for a in rows]


def test_means_by_hand(tmp_path):
    first = make_run(
        tmp_path / "a", {"float32": entry(30.0, 1000), "int8_ptq": entry(1.0, 5), "int8": entry(29.0, 250)}
    )
    models = {"float32": entry(33.0, 2000), "fake_quant": entry(2.0, 0, None), "int8": entry(31.0, 351)}
    second = make_run(tmp_path / "b", models, seconds=30.0)
    rows = [scene_row(folder.name, read_run(folder, folder.name)) for folder in (first, second)]
    mean = mean_row(rows)
    assert (mean.scene, mean.model) == ("mean of 2", "int8")
    assert (mean.raw_psnr, mean.psnr) == (31.5, 30.0)
    assert (mean.raw_bytes, mean.bytes) == (1500, 300.5)
    assert mean.minutes == 1.0 and mean.ssim == pytest.approx(0.9) and mean.lpips is None
    alone = make_run(tmp_path / "c", {"float32": entry(30.0, 1000)})
    assert mean_row([*rows, scene_row("c", read_run(alone, "c"))]).psnr is None  # not the mean of two of three


# ------------------------------------------------------------------------------------- the command


def test_any_model_with_a_file_is_a_row(tmp_path, capsys):
    make_run(
        tmp_path / "logs" / "one",
        {"float32": entry(30.0, 2**20), "fake_quant": entry(29.9, 0, None), "of tomorrow": entry(29.5, 2**18)},
    )
    make_run(tmp_path / "logs" / "deep" / "two", {"vq": entry(None, 1_000_000, lpips=0.125)})
    out = tmp_path / "made" / "for it"
    assert run(run_compare, tmp_path / "logs", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "of tomorrow" in printed and "fake_quant" not in printed
    assert table((out / "compare.md").read_text()) == [
        ["deep/two", "vq", "-", "0.9000", "0.1250", "1,000,000", "1.000", "0.954", "-", "0.250", "1.5", DEVICE],
        ["one", "float32", "30.00", "0.9000", "-", "1,048,576", "1.049", "1.000", "1.000", "0.250", "1.5", DEVICE],
        ["one", "of tomorrow", "29.50", "0.9000", "-", "262,144", "0.262", "0.250", "0.250", "0.250", "1.5", DEVICE],
    ]  # fmt: skip
    with open(out / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["psnr"] for r in rows] == ["", "30.0", "29.5"] and rows[2]["mb"] == "0.262144"
    assert "note:" not in printed


def test_results_go_to_the_first_folder_and_overlapping_folders_count_once(tmp_path):
    one = make_run(tmp_path / "one", {"int8": entry(30.0, 100)})
    assert run(run_compare, one, tmp_path, one) == 0
    assert len(table((one / "compare.md").read_text())) == 1


def test_runs_of_one_name_are_told_apart(tmp_path):
    for place in ("a", "b"):
        make_run(tmp_path / place / "lego", {"int8": entry(30.0, 100)})
    rows = collect_rows([tmp_path / "a" / "lego", tmp_path / "b" / "lego"])
    assert [row.run for row in rows] == ["a/lego", "b/lego"]


def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    models = {f"kind {i}": entry(20.0 + i, 10**i) for i in range(1, 16)} | {"_odd $name": entry(25.0, 77)}
    make_run(tmp_path / "a $ sign_", models)
    make_run(tmp_path / "b", {"float32": entry(None, 10)})
    assert run(run_compare, tmp_path) == 0
    picture = imageio.imread(tmp_path / "compare.png")
    assert picture.shape[:2] == (550, 880) and picture[..., :3].std() > 5


def test_without_matplotlib_the_tables_are_still_written(tmp_path, capsys, monkeypatch):
    make_run(tmp_path / "one", {"int8": entry(30.0, 100)})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # importing it fails
    assert run(run_compare, tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"one", "compare.md", "compare.csv"}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert len(lines) == 1 and "pip install matplotlib" in lines[0]


def test_rows_that_are_not_comparable_are_named(tmp_path, capsys):
    lego = "datadir = ./data/lego\nwhite_bkgd = True\n"
    make_run(tmp_path / "one", {"int8": entry(30.0, 100)}, args=lego)
    make_run(tmp_path / "two", {"int8": entry(30.0, 100)}, args=lego.replace("./data", "/elsewhere"))
    assert run(run_compare, tmp_path) == 0
    assert "note:" not in capsys.readouterr().out  # the same scene, wherever it lies
    make_run(tmp_path / "other", {"int8": entry(30.0, 100, views=3, height=8)}, args="datadir = x/fern\n")
    make_run(tmp_path / "built in", {"int8": entry(30.0, 100)}, args="datadir = None\nwhite_bkgd = True\n")
    assert run(run_compare, tmp_path) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert len(notes) == 1
    for words in (
        "scene procedural (built in), lego (one, two), fern (other)", "views 2 (built in, one, two), 3 (other)",
        "picture 6x4", "6x8 (other)", "background white", "black (other)",
    ):  # fmt: skip
        assert words in notes[0]
    assert "Note: rows are not all comparable" in (tmp_path / "compare.md").read_text()


def test_other_views_of_the_same_number_are_not_the_same(tmp_path, capsys):
    for name, views in (("one", ["000", "008"]), ("two", ["000", "004"])):
        make_run(tmp_path / name, {"int8": entry(30.0, 100, per_view=[{"view": view} for view in views])})
    assert run(run_compare, tmp_path) == 0
    assert "views 2 from 000 to 008 (one), 2 from 000 to 004 (two)" in capsys.readouterr().out


def test_a_file_that_has_changed_since_is_named(tmp_path, capsys):
    folder = make_run(tmp_path / "one", {"int8": entry(30.0, 100)})
    (folder / "model.safetensors").write_bytes(bytes(100))
    assert run(run_compare, folder) == 0
    assert "note:" not in capsys.readouterr().out
    (folder / "model.safetensors").write_bytes(bytes(101))
    assert run(run_compare, folder) == 0
    assert "note: one: model.safetensors has 101 bytes now, 100 when it was measured" in capsys.readouterr().out


def test_names_cannot_break_a_table(tmp_path, capsys):
    make_run(tmp_path / "one", {"a|b\n\x1b[2J": entry(30.0, 100)})
    assert run(run_compare, tmp_path) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert r"a\|b??[2J" in (tmp_path / "compare.md").read_text()


def test_a_real_run(tmp_path, capsys):
    flags = [*TINY, "--N_iters", "5", "--i_weights", "0", "--basedir", tmp_path, "--expname", "tiny"]
    assert run(run_nerf, *flags) == 0
    capsys.readouterr()
    assert run(run_compare, tmp_path / "tiny") == 0
    printed = capsys.readouterr().out
    measured = json.loads((tmp_path / "tiny" / "metrics.json").read_text())["models"]["float32"]
    (cells,) = table((tmp_path / "tiny" / "compare.md").read_text())
    assert cells[:3] == ["tiny", "float32", f"{measured['psnr']:.2f}"]
    assert cells[5] == f"{measured['bytes']:,}" and cells[8] == "1.000"
    assert "note: rows" not in printed
    (read,) = collect_rows([tmp_path])
    assert read.setting == {
        "scene": "procedural",
        "background": "white",
        "views": read.setting["views"],
        "picture": "24x24",
    }
    assert re.fullmatch(r"10 from \d+ to \d+", read.setting["views"])


# --------------------------------------------------------------------------------------- bad input


def test_folders_without_runs(tmp_path, capsys):
    fails_cleanly(capsys, run_compare, tmp_path / "nowhere", says=("nowhere", "no such folder"))
    fails_cleanly(capsys, run_compare, tmp_path, says=(tmp_path.name, "no metrics.json"))
    make_run(tmp_path / "one", {"fake_quant": entry(30.0, 0, None)})
    fails_cleanly(capsys, run_compare, tmp_path, says=("no model", "file"))
    fails_cleanly(capsys, run_compare, tmp_path / "one" / "metrics.json", says=("metrics.json", "is a file"))
    make_run(tmp_path / "two", {"int8": entry(30.0, 100)})
    fails_cleanly(capsys, run_compare, tmp_path, tmp_path / "nowhere", says=("nowhere",))
    fails_cleanly(
        capsys, run_compare, tmp_path, "--out", tmp_path / "two" / "metrics.json",
        says=("metrics.json", "cannot be made a folder"),
    )  # fmt: skip
    fails_cleanly(capsys, run_compare, says=("RUN_FOLDER",))


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe{}", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "models"),
        (b"{}", "models"),
        (b'{"models": [1]}', "models"),
        (b'{"models": {"int8": 3}}', "models"),
        (b'{"train": 4, "models": {}}', "train"),
        (b'{"train": {"seconds": "9"}, "models": {}}', "seconds"),
        (b'{"models": {"int8": {"file": "m", "bytes": 3}}}', "psnr"),
        (b'{"models": {"int8": {"file": "m", "bytes": 3, "psnr": NaN}}}', "psnr"),
        (b'{"models": {"int8": {"file": "m", "bytes": 3, "psnr": true}}}', "psnr"),
        (b'{"models": {"int8": {"file": "m", "bytes": 3, "psnr": 1' + b"0" * 400 + b"}}}", "psnr"),
        (b'{"models": {"int8": {"file": "m", "bytes": "3", "psnr": 3}}}', "bytes"),
        (b'{"models": {"int8": {"file": "m", "bytes": 0, "psnr": 3}}}', "bytes"),
        (b'{"models": {"int8": {"file": "m", "psnr": 3}}}', "bytes"),
        (b'{"models": {"int8": {"file": 7, "bytes": 3, "psnr": 3}}}', "file"),
        (b'{"models": {"int8": {"file": "m", "bytes": 3, "psnr": 3, "ssim": []}}}', "ssim"),
    ],
)
def test_malformed_metrics(tmp_path, capsys, content, says):
    folder = make_run(tmp_path / "one", {})
    (folder / "metrics.json").write_bytes(content)
    fails_cleanly(capsys, run_compare, tmp_path, says=("metrics.json", says))
    assert not (tmp_path / "compare.md").exists()
