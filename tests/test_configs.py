"""Every config can be read, and its line 1 says what comes of it: what was measured, or that nothing was."""

import json
import re
from statistics import fmean

import pytest
from conftest import ROOT

from options import config_parser

CONFIGS = sorted((ROOT / "configs").rglob("*.txt"))
KINDS = ("vq", "ternary", "w4a8", "int8", "float32")  # what a run was after: the first of these that it has


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_config_and_its_first_line(path):
    config_parser().parse_args(["--config", str(path)])
    line = path.read_text().splitlines()[0]
    assert line.startswith("# ")
    claims = {unit: number for number, unit in re.findall(r"([\d.]+) (dB|kB|MB|minutes)\b", line)}
    source = re.search(r"\(docs/results/(\w+\.json)\)", line)
    if not source:
        assert "not measured here" in line.lower() and not claims
        return
    assert "dB" in claims
    result = json.loads((ROOT / "docs" / "results" / source[1]).read_text())
    measured = measurements(result, path.stem, float_field="float32 of" in line)
    for unit, number in claims.items():
        decimals = len(number.partition(".")[2])
        assert number == f"{measured[unit]:.{decimals}f}", unit


def measurements(result: dict, experiment: str, float_field: bool) -> dict[str, float]:
    """What a file of docs/results says of a run's final model, of its float one, or of an experiment's mean."""
    if "ours" in result:  # a benchmark of frames
        return {"dB": result["ours"]["psnr"]}
    runs = [run for run in result.get("runs", [result]) if run.get("experiment", experiment) == experiment]
    kinds = KINDS[-1:] if float_field else KINDS
    models = [next(run["models"][kind] for kind in kinds if kind in run["models"]) for run in runs]
    size = fmean(model["bytes"] for model in models)
    minutes = fmean(run["train"]["seconds"] / 60 for run in runs)
    return {"dB": fmean(model["psnr"] for model in models), "kB": size / 1e3, "MB": size / 1e6, "minutes": minutes}


def test_a_measured_config_names_its_measurement():
    """Where docs/results holds a run of just this config."""
    for path in CONFIGS:
        result = ROOT / "docs" / "results" / f"{path.stem}.json"
        assert not result.exists() or f"docs/results/{result.name}" in path.read_text().splitlines()[0]
