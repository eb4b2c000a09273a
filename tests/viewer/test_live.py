"""A run that is watched while it trains learns the same, bit for bit, and goes on whatever becomes of the viewer."""

import itertools

import pytest
import torch
from helpers import HIERARCHICAL, SHORT, SMALL_TENSOR, TINY, fails_cleanly, finish, launch, make_run, same

import experiment
import run_nerf
import run_nerf_qat
from compressors.kinds import COMPRESSORS
from compressors.vq import VQCompressor
from rendering.renderer import render_image
from training.checkpoints import load_checkpoint
from training.compiled import compile_fields, eager_copy
from utils import distributed
from viewer import live
from viewer.live import LiveViewer
from viewer.render_thread import RenderThread
from viewer.views import View

STEPS = ["--N_iters", "12", "--qat_iters", "8", "--i_weights", "4"]
FEW_BINS = ["--proposal_bins", "8", "--final_bins", "4", "--N_rand", "64", "--proposal_width", "8"]
KINDS = {
    "int8": (TINY, COMPRESSORS["qat"]),
    "w4a8": (TINY, COMPRESSORS["w4a8"]),
    "hierarchical": (HIERARCHICAL, COMPRESSORS["qat"]),
    "mip": ([*TINY, "--field", "mip", "--sampler", "proposal", *FEW_BINS], COMPRESSORS["qat"]),
    "tensor field": ([*TINY, *SMALL_TENSOR, "--field", "tensorf", "--upsample_steps", "6"], VQCompressor),
}


class Looking:
    """In the place of a page: renders each copy at once, and a thread does beside the training."""

    watched = True

    def __init__(self, path=None):
        self.path, self.notes, self.closed, self.thread, self.shown = path, [], False, None, []

    def replace(self, models, note: str) -> None:
        (model,) = models
        assert not model.training
        render_image(model, self.path[0])
        self.notes.append(note)
        if self.thread is None:
            self.thread = RenderThread(models, self.path[0], lambda *what: self.shown.append(what), pytest.fail)
            self.thread.start()
        self.thread.look(0, View.of_camera(self.path[len(self.notes) % 2]), 64)
        self.thread.replace(models)

    def close(self) -> None:
        self.closed = True
        if self.thread is not None:
            self.thread.close()


def trained(folder, flags, compressor, watched: bool):
    """All that the last checkpoint of a whole run holds, and what looked on."""
    args, scene, renderer = make_run(flags, *STEPS)
    page = Looking(scene.render_path) if watched else None
    run = experiment.Run(args, scene, folder, renderer, None, None, LiveViewer(page))
    folder.mkdir()
    kind = compressor.from_flags(args, renderer, scene.render_path, True)
    with run.viewer:
        experiment.train_and_compress(run, kind)
    return load_checkpoint(folder / "000020.tar"), page


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learnt_is_the_same_bit_for_bit(tmp_path, monkeypatch, kind):
    """Looked at after every step, through growth of a field and through rounding."""
    monkeypatch.setattr(live, "INTERVAL", 0.0)
    monkeypatch.setattr(live, "COPYING", float("inf"))
    alone, _ = trained(tmp_path / "alone", *KINDS[kind], watched=False)
    seen, page = trained(tmp_path / "seen", *KINDS[kind], watched=True)
    assert page.closed and page.shown and page.notes == [f"after step {step + 1}" for step in range(20)]
    for state in (alone, seen):
        del state["trainer"]["seconds"]
    assert same(alone, seen)


def test_a_copy_shares_nothing_and_runs_as_written():
    _, _, renderer = make_run(TINY)
    renderer.train()
    compile_fields(renderer, backend="eager")
    copied = eager_copy(renderer)
    assert renderer.training and not copied.training and not any(part.training for part in copied.modules())
    tensors = [*renderer.parameters(), *renderer.buffers()]
    theirs = {one.data_ptr() for one in (*copied.parameters(), *copied.buffers())}
    assert not theirs & {one.data_ptr() for one in tensors}
    assert copied.field._compiled_call_impl is None and "density" not in vars(copied.field)
    points = torch.rand(5, 3)
    with torch.no_grad():
        for one in renderer.parameters():
            one.add_(1.0)
        assert not torch.allclose(copied.field.density(points), renderer.field.density(points))


def test_nothing_is_copied_while_nobody_watches(monkeypatch):
    monkeypatch.setattr(live, "eager_copy", lambda renderer: pytest.fail("copied"))
    page = Looking()
    page.watched = False
    for viewer in (LiveViewer(), LiveViewer(page)):
        viewer.after_step(None, 1)


def test_copies_are_seldom(monkeypatch):
    """Two seconds apart, or a hundred times what one takes."""
    clock = itertools.count(step=0.5)
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(live, "eager_copy", lambda renderer: renderer)
    page = Looking()
    page.replace = lambda models, note: page.notes.append(note)
    viewer = LiveViewer(page)
    for step in range(1, 300):
        viewer.after_step(None, step)
    assert page.notes[0] == "after step 1" and 2 <= len(page.notes) <= 5


def test_a_run_goes_on_without_a_viewer_that_has_no_memory(monkeypatch, capsys):
    def fail(renderer):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(live, "eager_copy", fail)
    page = Looking()
    viewer = LiveViewer(page)
    viewer.after_step(None, 1)
    viewer.after_step(None, 2)
    assert page.closed and viewer.page is None
    assert capsys.readouterr().err.count("the viewer ends, the run goes on: out of memory") == 1


def test_only_the_first_process_serves(monkeypatch, tmp_path):
    args, scene, renderer = make_run(TINY, "--viewer")
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    assert LiveViewer.from_flags(args, renderer, scene, tmp_path).page is None


def test_two_processes_show_one_page(tmp_path):
    pytest.importorskip("viser", reason="an extra: pip install -r requirements-viewer.txt")
    flags = [*TINY, "--N_iters", "6", "--viewer", "--port", "0", "--basedir", tmp_path]
    status, out, error = finish(launch(2, "run_nerf.py", *flags))
    assert status == 0, error
    assert out.count("viewer: http://127.0.0.1:") == 1


def test_the_viewer_is_for_training(tmp_path, capsys):
    for module in (run_nerf, run_nerf_qat):
        flags = ["--viewer", "--render_only", "--basedir", tmp_path]
        fails_cleanly(capsys, module, *flags, says=("--viewer", "run_viewer.py"))


def test_a_whole_command_serves_and_ends(tmp_path, capsys):
    pytest.importorskip("viser", reason="an extra: pip install -r requirements-viewer.txt")
    run_nerf.main([*TINY, *SHORT, "--viewer", "--port", "0", "--basedir", str(tmp_path)])
    said = capsys.readouterr().out
    assert said.count("viewer: http://127.0.0.1:") == 1 and "Server stopped" not in said
    assert (tmp_path / "nerf" / "model_float32.safetensors").is_file()
