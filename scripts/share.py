"""Makes a folder for the Hugging Face hub of a run's final model, and uploads it if told to.

python scripts/share.py logs/NAME --license ID [--out FOLDER] [--push OWNER/REPO [--private]]

FOLDER (default: logs/NAME/hub) then holds model.safetensors, the run's model file byte for byte; config.json, what that
file says of itself; README.md, its model card with what the run measured; and strip.png and the model's HTML page if
the run has them. `--render_only --model FOLDER` of every run script renders it.
"""

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

from deploy.model_file import IN_FOLDER, read_model  # noqa: E402 (the path is set just above)
from evaluation.comparison import COLUMNS, METRICS, Row, read_run  # noqa: E402
from evaluation.tables import markdown_table  # noqa: E402
from utils.errors import BadInput, UserError, exit_cleanly, first_line  # noqa: E402
from utils.files import atomic_write  # noqa: E402
from utils.parser import Parser  # noqa: E402

CARD, CONFIG, STRIP = "README.md", "config.json", "strip.png"
SHOWN = ("model", "psnr", "ssim", "lpips", "bytes", "ratio", "seconds_per_frame")  # columns of the card's table


def make_parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", type=Path, help="folder of a finished run")
    add("--license", required=True, metavar="ID", help="of the model, by the hub's names: cc-by-4.0, mit, other")
    add("--out", type=Path, metavar="FOLDER", help="what to write (default: hub in the run's folder)")
    add("--push", metavar="OWNER/REPO", help="upload it as this model (an extra: requirements-hub.txt)")
    add("--private", action="store_true", help="with --push: nobody else may see a repository that it makes")
    return parser


def main(argv: list[str] | None = None) -> None:
    options = make_parser().parse_args(argv)
    out = options.out or options.run / "hub"
    api = hub_api() if options.push else None  # what is missing is said before anything is written
    files = shared_files(options.run, options.license)
    check_is_free(out, set(files))
    for name, content in files.items():
        atomic_write(out / name, content)
    print(f"wrote {out}: {', '.join(f'{name} ({len(content)} bytes)' for name, content in files.items())}")
    if options.push:
        print(f"uploaded to {push(api, out, options.push, options.private)}")


def shared_files(run: Path, license_id: str) -> dict[str, bytes]:
    """What the folder of a run's last model holds, by file name. Raises BadInput where the run has not finished,
    BrokenFile where its model file is not whole."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", license_id):
        raise BadInput(f"--license {license_id}: expected one of the hub's names, such as cc-by-4.0, mit or other")
    if not (run / METRICS).is_file():
        raise BadInput(f"{run}: no {METRICS} in it; name the folder of a run that has finished")
    rows = read_run(run, run.resolve().name)
    if not rows:
        raise BadInput(f"{run / METRICS}: no model in it has a file; train it again")
    file = rows[-1].file
    metadata, _ = read_model(file)
    files = {
        IN_FOLDER: file.read_bytes(),
        CONFIG: (json.dumps(metadata, indent=2) + "\n").encode(),
        CARD: b"",  # which names the others
    }
    for source in (run / STRIP, file.with_suffix(".html")):
        if source.is_file():
            files[source.name] = source.read_bytes()
    files[CARD] = model_card(license_id, rows, metadata, set(files)).encode()
    return files


def check_is_free(folder: Path, names: set[str]) -> None:
    """Raises BadInput where a folder holds what is not to be shared."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--out {folder}: is a file; name a folder that is new or empty")
    others = {path.name for path in folder.glob("*")} - names if folder.is_dir() else set()
    if others:
        raise BadInput(
            f"--out {folder}: holds {min(others)}, which is none of its files; name one that is new or empty"
        )


# -------------------------------------------------------------------------------------------- the card


def model_card(license_id: str, rows: list[Row], metadata: dict, names: set[str]) -> str:
    """The model card, Markdown. rows: the run's models, the shared one last. names: of the files beside it."""
    final, kind = rows[-1], metadata["fields"]["network_fn"]["kind"]
    tags = dict.fromkeys(("nerf", "novel-view-synthesis", kind, metadata["precision"]))
    front = ["---", f"license: {license_id}", "library_name: nerf-qat", "tags:", *(f"- {tag}" for tag in tags), "---"]
    trained = "" if final.minutes is None else f", trained in {final.minutes:.1f} minutes"
    device = "" if final.device is None else f" on {final.device}"
    parts = [
        "\n".join(front),
        f"# {final.run}",
        f"A radiance field (`{kind}`, {metadata['precision']}) in one file of {final.bytes:,} bytes{trained}{device}. "
        "The file holds all that rendering needs: network, rays, and a camera path.",
    ]
    if STRIP in names:
        parts.append(f"![Test views: ground truth and what is rendered]({STRIP})")
    columns = [column for column in COLUMNS if column.key in SHOWN]
    views = ", ".join(final.setting[key] for key in ("views", "picture") if key in final.setting)
    parts += [
        "## Measured",
        f"On the test views ({views}), each model rendered from its file; this is `{final.model}`.",
    ]
    parts.append(markdown_table(columns, rows).rstrip())
    parts += ["## Render it", "With NeRF-QAT, from this folder alone:"]
    parts.append(f"```bash\npython run_nerf_qat.py --render_only --model FOLDER --expname {final.run}\n```")
    for page in sorted(name for name in names if name.endswith(".html")):
        parts.append(f"Or open [`{page}`]({page}) in a browser.")
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------- uploading


def hub_api():
    """What speaks to the hub. Raises UserError without huggingface_hub."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError("--push needs huggingface_hub: pip install -r requirements-hub.txt") from error
    return HfApi()


def push(api, folder: Path, repo: str, private: bool) -> str:
    """Uploads a folder as a model, making the repository if there is none; returns its address.

    api: a `huggingface_hub.HfApi`. Raises UserError for whatever the hub or the network says against it.
    """
    try:
        address = api.create_repo(repo, repo_type="model", private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="model", folder_path=folder, commit_message="Model and its card")
    except Exception as error:  # of many types: the hub's own, the network's, names that it refuses
        raise UserError(
            f"--push {repo}: {type(error).__name__}: {first_line(error)}; {folder} is whole, and can be pushed again"
        ) from error
    return str(address)


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
