"""One table and one plot over finished runs: quality, bytes, time, a row for each model file.

python run_compare.py RUN_FOLDER... [--out FOLDER]
"""

if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import sys
from pathlib import Path

from evaluation.comparison import COLUMNS, collect_rows, notes, pareto_front
from evaluation.tables import draw_plot, text_table, write_tables
from utils.errors import exit_cleanly
from utils.parser import Parser


def make_parser() -> Parser:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN_FOLDER", help="a run's folder, or one that runs are in or below")
    add("--out", type=Path, help="folder of compare.md, compare.csv and compare.png (default: the first RUN_FOLDER)")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    rows = collect_rows(args.runs)
    remarks = notes(rows)
    out = args.out or args.runs[0]
    print(text_table(COLUMNS, rows))
    for remark in remarks:
        print(f"note: {remark}")
    write_tables(out, "compare", COLUMNS, rows, remarks)
    missing = draw_plot(rows, pareto_front(rows), out / "compare.png")
    if missing:
        print(f"note: compare.png was not drawn: {missing}")
    print(f"wrote compare.md and compare.csv{'' if missing else ' and compare.png'} to {out}")


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
