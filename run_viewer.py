"""Shows a model file in the browser, or two side by side: looked at from anywhere, and camera paths set by hand.

python run_viewer.py MODEL_FILE [OTHER_FILE] [--config FILE] [--datadir DATA]
"""

if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import argparse
import sys
import threading
from pathlib import Path

from deploy.backends.choose import select_backend
from deploy.model_file import read_model
from experiment import load_file, prepare_device
from load_scene import load_scene
from options import PATH, config_parser
from utils.errors import exit_cleanly
from utils.parser import Parser
from viewer.page import Exhibit, Page, viser_or_say

SHOWN = ("positional", "options", "viewer", "data", "machine")  # groups of flags in its help, by their beginnings
NOT_READ = ("viewer", "plot_cameras")  # of these groups


def make_parser() -> Parser:
    """That of the run commands, so that a config file of theirs says where the data are."""
    parser = config_parser()
    parser.usage = "run_viewer.py MODEL_FILE [OTHER_FILE] [FLAGS]"
    add = parser.add_argument
    add("file", type=PATH, metavar="MODEL_FILE", help="model file of any kind: model_int8.safetensors, say")
    add("other", type=PATH, nargs="?", metavar="OTHER_FILE", help="another of the same scene, right of a seam")
    for group in parser._action_groups:
        for action in group._group_actions:
            shown = group.title.startswith(SHOWN) and action.dest not in NOT_READ
            if not shown and action.dest != "backend":
                action.help = argparse.SUPPRESS
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    viser_or_say()
    device = prepare_device(args)
    backend = select_backend(args.backend, device)

    # The files, each as it renders.
    files = [Path(name) for name in (args.file, args.other) if name]
    loaded = [load_file(args, file, device, backend) for file in files]
    notes, balls = zip(*(what_is_in(file, by) for file, (_, _, by) in zip(files, loaded, strict=True)), strict=True)

    # The photographs, if the flags say where they are.
    known = args.datadir or args.config or args.dataset_type != "auto"
    scene = load_scene(args) if known else None
    models, paths, _ = zip(*loaded, strict=True)
    exhibit = Exhibit(models, notes, paths[0], files[0].parent, scene, balls[0])
    page = Page(exhibit, args.host, args.port)
    print(f"viewer: {page.address} (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close()


def what_is_in(file: Path, executed_by: str) -> tuple[str, float | None]:
    """A line on a model file, and the radius of the ball beyond which its space is contracted, world units."""
    metadata, _ = read_model(file)
    field = metadata["fields"]["network_fn"]
    note = f"**{file.name}** {metadata['precision']} {field['kind']}, {file.stat().st_size:,} bytes, by {executed_by}"
    return note, next((part["ball"] for part in (metadata["sampler"], field) if part.get("ball")), None)


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
