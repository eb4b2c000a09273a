"""Trains, or measures anew, every scene of a data set: over all GPUs of a machine, or a Ray cluster.

python scripts/autotask.py --config CONFIG --dataset_root ROOT [--scenes a b c] [--script run_nerf.py]
    [--basedir logs/NAME] [--gpus 0 1] [--workers 1] [--ray] [--eval_only] [--force] [FLAGS...]

Each scene, a folder in ROOT, is one run of the script in BASEDIR/scene, what it prints in
BASEDIR/scene.log; FLAGS go to every run. Finished scenes are left alone, so the same command goes
on where it was stopped. At the end autotask.md, .csv and .png in BASEDIR hold every scene's float32
model beside its compressed one, and their means.
"""

import argparse
import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

from evaluation.comparison import METRICS, SCENE_COLUMNS, Row, mean_row, pareto_front, read_run, scene_row  # noqa: E402
from evaluation.tables import draw_plot, text_table, write_tables  # noqa: E402
from load_scene import dataset_type, known_marks  # noqa: E402
from options import config_parser  # noqa: E402
from scripts.jobs import Job, local_slots, run_here, run_on_ray  # noqa: E402
from training.checkpoints import checkpoint_files  # noqa: E402 (the path is set just above)
from utils.errors import BadInput, Interrupted, TrainingFailed, exit_cleanly  # noqa: E402
from utils.parser import Parser, positive  # noqa: E402
from utils.progress import progress_bar  # noqa: E402

MEASURED = "renderonly_metrics.json"  # beside metrics.json: what --eval_only finds
TAIL = 5  # lines of its log that are shown of a failed scene
# What each run gets its own of, or what --eval_only stands for.
OURS = ("--datadir", "--expname", "--render_only", "--render_test", "--plot_cameras")
MEASURE = ROOT / "scripts" / "measure_models.py"


def make_parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", required=True, help="config file of every run; its datadir and expname are not used")
    add("--dataset_root", type=Path, required=True, metavar="ROOT", help="folder of the scenes' folders")
    add("--scenes", nargs="+", metavar="SCENE", help="those to do (default: every folder that a loader knows)")
    add("--script", default="run_nerf_qat.py", help="a run script of this repository")
    add("--basedir", type=Path, help="folder of the runs (default: logs/ and the name of ROOT)")
    add("--gpus", nargs="+", default=[], metavar="N", help="GPUs to use (default: all; the CPU if there is none)")
    add("--workers", type=positive(int), default=1, help="scenes at a time on each GPU, or on the CPU")
    add("--ray", action="store_true", help="run on a Ray cluster (an extra) whose machines see the same folders")
    add("--eval_only", action="store_true", help="train nothing: measure the model files that finished runs left")
    add("--force", action="store_true", help="train finished scenes anew; their old files go when training starts")
    return parser


def main(argv: list[str] | None = None) -> None:
    options, flags = make_parser().parse_known_args(argv)
    options.basedir = options.basedir or Path("logs", options.dataset_root.resolve().name)
    scenes = find_scenes(options.dataset_root, options.scenes)
    check(options, flags, scenes[0])
    slots = [] if options.ray else local_slots(options.gpus, options.workers)

    done: list[str] = []
    failed: dict[str, str] = {}  # by scene, why
    if options.eval_only:
        jobs = measuring_jobs(options, flags, scenes, failed)
    else:
        done += [scene for scene in scenes if (options.basedir / scene / METRICS).exists() and not options.force]
        for remark in finished_before(options, done):
            print(remark)
        jobs = [training_job(options, flags, scene) for scene in scenes if scene not in done]

    interrupted = False
    runs = run_on_ray(jobs, options.workers) if options.ray and jobs else run_here(jobs, slots)
    try:
        with contextlib.closing(runs):
            watch(runs, len(jobs), options, done, failed)
    except KeyboardInterrupt:
        interrupted = True
    report(options, [scene for scene in scenes if scene in done], failed)
    if interrupted:
        raise Interrupted("stopped; finished scenes are kept, and the same command goes on with the others")
    if failed:
        raise TrainingFailed(f"{len(failed)} of {len(scenes)} scenes failed: {' '.join(failed)}")


# ------------------------------------------------------------------------------ what is to be done


def find_scenes(root: Path, names: list[str] | None) -> list[str]:
    """The scenes named, or the folders in `root` that a loader knows, sorted.

    Raises BadInput for a name that is no such folder, and where there is none.
    """
    if not root.is_dir():
        raise BadInput(f"--dataset_root {root}: no such folder")
    if names:
        for name in names:
            if Path(name).name != name or name == "..":
                raise BadInput(f"--scenes {name}: expected the name of a folder in {root}")
            recognise(root / name)
        return list(dict.fromkeys(names))
    found = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        with contextlib.suppress(BadInput):
            recognise(folder)
            found.append(folder.name)
    if not found:
        raise BadInput(
            f"--dataset_root {root}: no folder in it has {known_marks()}; "
            "name the folder that the scenes' folders are in"
        )
    return found


def recognise(folder: Path) -> str:
    """The kind of data set that a folder looks like. Raises BadInput where it is none."""
    return dataset_type(argparse.Namespace(dataset_type="auto", datadir=str(folder)))


def check(options: argparse.Namespace, flags: list[str], scene: str) -> None:
    """Raises BadInput, before any scene has spent an hour, for what every run would refuse; makes BASEDIR."""
    if Path(options.script).name != options.script or not (ROOT / options.script).is_file():
        raise BadInput(f"--script {options.script}: no such run script; try run_nerf.py, run_nerf_qat.py or run_vq.py")
    if options.ray and options.gpus:
        raise BadInput("--gpus: with --ray it is Ray that hands out GPUs; leave one of them out")
    if options.eval_only and options.force:
        raise BadInput("--force trains anew and --eval_only trains nothing; leave one of them out")
    for flag in flags:
        if flag.split("=")[0] in OURS:
            raise BadInput(f"{flag}: is not for a whole data set; every run gets its own, or see --eval_only")
    config_parser().parse_args(run_flags(options, flags, scene))
    try:
        options.basedir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--basedir {options.basedir}: cannot be made a folder ({error.strerror})") from error


def run_flags(options: argparse.Namespace, flags: list[str], scene: str) -> list[str]:
    own = ["--datadir", str(options.dataset_root / scene), "--basedir", str(options.basedir), "--expname", scene]
    return ["--config", options.config, *flags, *own]


def training_job(options: argparse.Namespace, flags: list[str], scene: str) -> Job:
    """The run of a scene. A finished one loses its files as it starts anew: it must not resume from them."""
    folder = (options.basedir / scene).resolve()
    stale = [*checkpoint_files(folder), *folder.glob("model_*"), folder / MEASURED, folder / METRICS]
    finished = (folder / METRICS).exists()
    command = (sys.executable, str(ROOT / options.script), *run_flags(options, flags, scene))
    return Job(scene, command, log_file(options, scene), tuple(stale) if finished else ())


def measuring_jobs(
    options: argparse.Namespace, flags: list[str], scenes: list[str], failed: dict[str, str]
) -> list[Job]:
    """For each scene one process that measures its model files; scenes without any go to `failed`."""
    jobs = []
    for scene in scenes:
        folder = options.basedir / scene
        try:
            files = model_files(folder)
        except BadInput as error:
            failed[scene] = str(error)
            print(f"{scene} failed: {error}")
            continue
        own = [word for name, file in files.items() for word in ("--measure", name, str(file))]
        own += ["--out", str(folder / MEASURED)]
        command = (sys.executable, str(MEASURE), *own, *run_flags(options, flags, scene))
        jobs.append(Job(scene, command, log_file(options, scene), ((folder / MEASURED).resolve(),)))
    return jobs


def model_files(folder: Path) -> dict[str, Path]:
    """A run's model files by the models' names, as its metrics.json has them, the one it was for last.

    Without metrics.json they are found by their names. Raises BadInput where there is none.
    """
    if (folder / METRICS).exists():
        files = {row.model: row.file for row in read_run(folder, folder.name)}
    else:
        # float32 first; int8 after int8_ptq, a model after what was made on the way to it
        found = sorted(folder.glob("model_*.safetensors"), reverse=True)
        found.sort(key=lambda path: path.stem != "model_float32")
        files = {path.stem.removeprefix("model_"): path for path in found}
    if not files:
        raise BadInput(f"{folder}: no model file in it; train the scene first, without --eval_only")
    return files


def log_file(options: argparse.Namespace, scene: str) -> Path:
    return options.basedir.resolve() / f"{scene}.log"


# ------------------------------------------------------------------------- what comes of it, as it comes


def finished_before(options: argparse.Namespace, scenes: list[str]) -> list[str]:
    """Lines about scenes that are left alone; those of another config could be mistaken for this one's."""
    if not scenes:
        return []
    lines = [f"finished before: {' '.join(scenes)}; --force trains them anew"]
    wanted = hashlib.sha256(Path(options.config).read_bytes()).hexdigest()
    others = []
    for scene in scenes:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # `report` says what is wrong with it
            found = json.loads((options.basedir / scene / METRICS).read_bytes()).get("config_sha256", wanted)
            others += [scene] if found != wanted else []
    if others:
        lines.append(f"note: {' '.join(others)}: trained with another config than {options.config} is now")
    return lines


def watch(
    runs: Iterator[tuple[Job, int]], total: int, options: argparse.Namespace, done: list[str], failed: dict[str, str]
) -> None:
    """Sorts scenes into `done` and `failed` as their runs end, and says at once why one failed."""
    result = MEASURED if options.eval_only else METRICS
    with progress_bar(total=total, desc="scenes", unit="scene") as bar:
        for job, status in runs:
            if status == 0 and (options.basedir / job.name / result).exists():
                done.append(job.name)
            else:
                failed[job.name] = f"exit status {status}" if status else f"it wrote no {result}"
                last = "".join(f"\n    {line}" for line in tail(job.log))
                bar.write(f"{job.name} failed: {failed[job.name]}; the end of {options.basedir / job.log.name}:{last}")
            bar.set_postfix_str(f"{len(failed)} failed" if failed else "", refresh=False)
            bar.update()


def tail(log: Path) -> list[str]:
    """The last lines of a log; of a progress bar, which overwrites its line, the last state."""
    try:
        text = log.read_bytes()[-16384:].decode(errors="replace")
    except OSError:
        return []
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return [line for line in lines if line][-TAIL:]


def report(options: argparse.Namespace, scenes: list[str], failed: dict[str, str]) -> None:
    """Prints and writes the table of finished scenes, and draws all their models; a bad file joins `failed`."""
    runs: dict[str, list[Row]] = {}
    for scene in scenes:
        try:
            runs[scene] = read_run(options.basedir / scene, scene, MEASURED if options.eval_only else METRICS)
        except BadInput as error:
            failed[scene] = str(error)
            print(f"{scene} failed: {error}")
    if not runs:
        print("no scene is finished: there is no table to write")
        return
    table = [scene_row(scene, rows) for scene, rows in runs.items()]
    table.append(mean_row(table))
    print(text_table(SCENE_COLUMNS, table))
    name = "autotask_eval" if options.eval_only else "autotask"
    remarks = [f"not in the table, failed: {' '.join(failed)}"] if failed else []
    write_tables(options.basedir, name, SCENE_COLUMNS, table, remarks)
    models = [row for rows in runs.values() for row in rows]
    missing = draw_plot(models, pareto_front(models), options.basedir / f"{name}.png")
    if missing:
        print(f"note: {name}.png was not drawn: {missing}")
    print(f"wrote {name}.md and {name}.csv{'' if missing else f' and {name}.png'} to {options.basedir}")


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
