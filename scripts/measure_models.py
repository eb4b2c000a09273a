"""Measures model files on a scene's test views, from nothing but the files and the views.

python scripts/measure_models.py (--measure NAME FILE)... --out JSON --config CONFIG --datadir PATH [FLAGS...]

FLAGS are those of the run that wrote the files. JSON is like a run's metrics.json, without training.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import torch  # noqa: E402 (the path is set just above)

from deploy.backends.choose import select_backend  # noqa: E402
from evaluation.metrics_file import format_table, run_facts, write_metrics  # noqa: E402
from evaluation.views import evaluate_views  # noqa: E402
from experiment import load_file, prepare_device  # noqa: E402
from load_scene import load_scene  # noqa: E402
from options import config_parser  # noqa: E402
from rendering.renderer import RenderLimits  # noqa: E402
from utils.errors import exit_cleanly  # noqa: E402
from utils.parser import Parser  # noqa: E402


def make_parser() -> Parser:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--measure", nargs=2, action="append", required=True, metavar=("NAME", "FILE"), help="a model file, once each")
    add("--out", type=Path, required=True, help="the JSON file to write")
    return parser


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    options, flags = make_parser().parse_known_args(argv)
    args = config_parser().parse_args(flags)
    device = prepare_device(args)
    backend = select_backend(args.backend, device)
    scene = load_scene(args)
    models = {}
    for name, file in options.measure:
        renderer, _, executes = load_file(args, Path(file), device, backend)
        views = evaluate_views(renderer, scene, scene.splits["test"], RenderLimits.from_flags(args), label=name)
        models[name] = {**views.summary(), "bytes": Path(file).stat().st_size, "backend": executes}
        models[name]["file"] = Path(file).name
    write_metrics(options.out, run_facts(args.expname, args.config, device), {}, models)
    print(format_table(models))


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
