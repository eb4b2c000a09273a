"""scripts/share.py: a run's final model as a folder that renders alone, and its upload through a hub that is none."""

import builtins
import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from helpers import TINY, fails_cleanly, run

import run_nerf
import run_nerf_qat
from deploy.model_file import read_model
from scripts import share
from utils.errors import UserError

FLAGS = ["--quant", "ptq", "--N_iters", "6", "--i_weights", "0", "--testskip", "8"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a whole short run."""
    base = tmp_path_factory.mktemp("runs")
    assert run(run_nerf_qat, *TINY, *FLAGS, "--basedir", base, "--expname", "done") == 0
    return base / "done"


@pytest.fixture(scope="module")
def shared(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("shared") / "folder"
    assert run(share, finished, "--license", "cc-by-4.0", "--out", out) == 0
    return out


def test_the_folder_holds_the_model_and_what_was_measured(finished, shared):
    assert {path.name for path in shared.iterdir()} == {"model.safetensors", "config.json", "README.md", "strip.png"}
    assert (shared / "model.safetensors").read_bytes() == (finished / "model_int8.safetensors").read_bytes()
    assert (shared / "strip.png").read_bytes() == (finished / "strip.png").read_bytes()
    config = json.loads((shared / "config.json").read_text())
    assert config == read_model(finished / "model_int8.safetensors")[0] and config["precision"] == "int8"
    card = (shared / "README.md").read_text()
    front = card.split("---\n")[1].splitlines()
    assert front[:2] == ["license: cc-by-4.0", "library_name: nerf-qat"]
    assert front[2:] == ["tags:", "- nerf", "- novel-view-synthesis", "- int8"]
    measured = json.loads((finished / "metrics.json").read_text())["models"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["model", "float32", "int8_ptq", "int8"]
    for row in rows[1:]:
        assert row[1] == f"{measured[row[0]]['psnr']:.2f}" and row[4] == f"{measured[row[0]]['bytes']:,}"
    assert "(strip.png)" in card and "24x24" in card and ".html" not in card
    assert str(finished.parent) not in card


@pytest.mark.parametrize("script", [run_nerf_qat, run_nerf], ids=["run_nerf_qat", "run_nerf"])
def test_the_folder_renders_alone(shared, tmp_path, script):
    alone = tmp_path / "somewhere"
    shutil.copytree(shared, alone)
    assert run(script, "--render_only", "--model", alone, "--basedir", tmp_path, "--expname", "seen") == 0
    (video,) = (tmp_path / "seen").glob("renderonly_path_*/video_rgb.mp4")
    assert video.stat().st_size > 0


def test_a_folder_with_nothing_but_a_pickle_is_refused(tmp_path, capsys):
    (tmp_path / "model.pt").write_bytes(b"\x80\x04N.")
    says = ("model.safetensors", "no such model file")
    fails_cleanly(capsys, run_nerf_qat, "--render_only", "--model", tmp_path, "--basedir", tmp_path, says=says)


def test_the_html_page_goes_along(finished, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(finished, mine)
    (mine / "model_int8.html").write_text("<p>page</p>")
    assert run(share, mine, "--license", "mit") == 0
    assert (mine / "hub" / "model_int8.html").read_text() == "<p>page</p>"
    assert "(model_int8.html)" in (mine / "hub" / "README.md").read_text()
    assert run(share, mine, "--license", "mit") == 0  # again, over itself


def test_what_cannot_be_shared_is_one_line(finished, shared, tmp_path, capsys):
    def refused(*flags: object, says: tuple[str, ...]) -> None:
        fails_cleanly(capsys, share, *flags, says=says)

    refused(tmp_path, "--license", "mit", says=(str(tmp_path), "metrics.json"))
    refused(finished, says=("--license",))
    refused(finished, "--license", "mit\ntags: [x]", says=("--license",))
    refused(finished, "--license", "mit", "--out", finished, says=("--out", "none of its files"))
    refused(finished, "--license", "mit", "--out", shared / "strip.png", says=("--out", "is a file"))
    broken = tmp_path / "broken"
    shutil.copytree(finished, broken)
    content = bytearray((broken / "model_int8.safetensors").read_bytes())
    content[-1] ^= 1
    (broken / "model_int8.safetensors").write_bytes(bytes(content))
    refused(broken, "--license", "mit", says=("model_int8.safetensors", "altered or damaged"))
    assert not (broken / "hub").exists()


class PretendHub:
    """An `HfApi` that keeps what it is given, or fails."""

    def __init__(self, error: Exception | None = None):
        self.error, self.made, self.uploaded = error, [], {}

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool | None, exist_ok: bool) -> str:
        self.made.append((repo_id, repo_type, private, exist_ok))
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, repo_id: str, repo_type: str, folder_path: Path, commit_message: str) -> None:
        if self.error:
            raise self.error
        self.uploaded[repo_id] = {path.name: path.read_bytes() for path in folder_path.iterdir()}


def test_push_uploads_the_folder_and_nothing_else(finished, tmp_path, monkeypatch, capsys):
    hub = PretendHub()
    monkeypatch.setattr(share, "hub_api", lambda: hub)
    out = tmp_path / "out"
    assert run(share, finished, "--license", "mit", "--out", out, "--push", "me/lego", "--private") == 0
    assert hub.made == [("me/lego", "model", True, True)]
    assert hub.uploaded == {"me/lego": {path.name: path.read_bytes() for path in out.iterdir()}}
    assert "https://hub.example/me/lego" in capsys.readouterr().out


def test_what_the_hub_says_against_it_is_one_line(shared):
    with pytest.raises(UserError, match="--push me/lego: ConnectionError: no way.*can be pushed again"):
        share.push(PretendHub(ConnectionError("no way")), shared, "me/lego", private=False)


def test_without_huggingface_hub_nothing_is_written(finished, tmp_path, capsys, monkeypatch):
    found = builtins.__import__

    def missing(name: str, *rest, **named):
        if name == "huggingface_hub":
            raise ImportError(name)
        return found(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    out = tmp_path / "out"
    flags = [finished, "--license", "mit", "--out", out, "--push", "me/lego"]
    fails_cleanly(capsys, share, *flags, says=("--push", "requirements-hub.txt"))
    assert not out.exists()
    assert (ROOT / "requirements-hub.txt").is_file()
