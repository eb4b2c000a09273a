"""Files of earlier days are read, rendered and resumed as on the day they were made; see golden/README.md."""

import importlib
import json
import shutil

import imageio.v2 as imageio
import numpy as np
import pytest
from conftest import ROOT
from helpers import latest_losses, picture_of, run
from make_golden import GOLDEN, MORE, RUNS

MODELS = sorted(GOLDEN.glob("*/*.safetensors"))


def test_there_is_a_folder_for_every_kind():
    assert {path.parent.name for path in GOLDEN.glob("*/expected.json")} == set(RUNS)
    assert len(MODELS) >= 20


@pytest.mark.parametrize("model", MODELS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_model_file_renders_its_picture(model):
    expected = imageio.imread(model.with_suffix(".png")).astype(int)
    assert np.abs(picture_of(model).astype(int) - expected).max() <= 1
    assert expected.std() > 5  # it shows something


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_goes_on_as_it_did(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    expected = json.loads((GOLDEN / name / "expected.json").read_text())
    folder = tmp_path / name
    folder.mkdir()
    for file in [expected["checkpoint"], "model_float32.safetensors"]:  # the file is who teaches under --distill
        shutil.copy(GOLDEN / name / file, folder)
    command = importlib.import_module(expected["command"])
    assert run(command, *expected["flags"], "--basedir", tmp_path, "--expname", name) == 0
    last = max(folder.glob("*.tar"))
    assert int(last.stem) == int(expected["checkpoint"][:-4]) + MORE
    losses = latest_losses(last)
    assert len(losses) == MORE and losses == pytest.approx(expected["losses"], rel=1e-3)
