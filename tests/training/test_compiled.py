"""--compile: every query of a field goes through the compiled graph, and learns the same."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from helpers import HIERARCHICAL, TINY

import experiment
from compressors.fake_quantize import set_state
from compressors.int8 import fuse, prepare
from experiment import float_phase, make_renderer
from load_scene import load_scene
from options import config_parser
from run_nerf_helpers import NeRF_qat
from training.compiled import compile_fields
from training.trainer import Trainer


class CountingBackend:
    """Runs captured graphs as they are, and counts graphs and their runs."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: list):
        self.graphs += 1

        def run(*inputs):
            self.runs += 1
            return graph(*inputs)

        return run


def make_trainer(tmp_path, flags: list[str], quantized: bool) -> Trainer:
    args = config_parser().parse_args(flags)
    scene = load_scene(args)
    renderer = make_renderer(args, scene, torch.device("cpu"), NeRF_qat)
    if quantized:
        for field in renderer.fields.values():
            field.network = prepare(fuse(field.network))
        set_state(renderer, observing=True, quantizing=True)
    return experiment.make_trainer(experiment.Run(args, scene, tmp_path, renderer, None), float_phase(args))


def train(trainer: Trainer, steps: int) -> list[float]:
    return [float(trainer.step().mse) for _ in range(steps)]


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "qat"])
def test_every_query_runs_the_compiled_graph(tmp_path, quantized):
    flags = [*TINY, "--empty_samples", "64"]
    expected = train(make_trainer(tmp_path, flags, quantized), 9)
    backend = CountingBackend()
    trainer = make_trainer(tmp_path, flags, quantized)
    names = list(trainer.renderer.state_dict())
    compile_fields(trainer.renderer, backend)
    assert train(trainer, 9) == expected
    assert 0 < backend.graphs < 9  # compiled once for a shape or two, not anew at every step
    # A call and a density for each step; --grid_interval 8 asks once more for the grid.
    assert backend.runs == 9 + 9 + 1
    assert list(trainer.renderer.state_dict()) == names


def test_both_fields_of_the_hierarchical_renderer_are_compiled(tmp_path):
    expected = train(make_trainer(tmp_path, HIERARCHICAL, False), 3)
    backend = CountingBackend()
    trainer = make_trainer(tmp_path, HIERARCHICAL, False)
    compile_fields(trainer.renderer, backend)
    assert train(trainer, 3) == expected
    assert backend.runs == 2 * 3


def test_a_light_field_is_compiled(tmp_path):
    flags = [*TINY, "--no_random_bkgd", "--field", "light_field", "--sampler", "light_field", "--netdepth", "4"]
    flags += ["--samples_per_batch", "128", "--ray_points", "3"]
    expected = train(make_trainer(tmp_path, flags, False), 5)
    backend = CountingBackend()
    trainer = make_trainer(tmp_path, flags, False)
    compile_fields(trainer.renderer, backend)
    assert train(trainer, 5) == pytest.approx(expected, rel=1e-5)
    assert backend.runs == 5


def test_the_next_phase_is_compiled_anew(tmp_path):
    backend = CountingBackend()
    trainer = make_trainer(tmp_path, TINY, False)
    compile_fields(trainer.renderer, backend)
    train(trainer, 1)
    trainer.renderer.field.network = prepare(fuse(trainer.renderer.field.network))
    set_state(trainer.renderer, observing=True, quantizing=True)
    compile_fields(trainer.renderer, backend)
    before = backend.graphs, backend.runs
    train(trainer, 1)
    assert (backend.graphs, backend.runs) == (before[0] + 1, before[1] + 1)


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler for inductor")
def test_inductor_learns_the_same(tmp_path):
    expected = train(make_trainer(tmp_path, TINY, False), 4)
    actual = train(make_trainer(tmp_path, [*TINY, "--compile"], False), 4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    assert actual == pytest.approx(expected, rel=1e-4)


def test_without_a_compiler_one_line_says_so(tmp_path):
    code = "import sys, run_nerf; from utils.errors import exit_cleanly; sys.exit(exit_cleanly(run_nerf.main))"
    command = [sys.executable, "-c", code, *TINY, "--compile", "--basedir", str(tmp_path)]
    environment = {**os.environ, "PATH": str(tmp_path), "CXX": "no-such-compiler"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--compile needs a C++ compiler" in done.stderr and "Traceback" not in done.stderr
