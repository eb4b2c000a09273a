"""Rows of anything as a table for a terminal, Markdown or CSV, and models as a plot of PSNR over bytes."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from utils.errors import BadInput
from utils.files import atomic_write

MARKERS = "os^Dv<>PXph*"
MOST_LABELS = 16  # points that are still told apart when each has its run's name beside it


@dataclasses.dataclass(frozen=True)
class Column:
    """key: a row's attribute, and the column's name in CSV. digits: decimals of a number; None for words."""

    key: str
    title: str
    digits: int | None = None

    def text(self, row: object) -> str:
        value = getattr(row, self.key)
        if value is None:
            return "-"
        return str(value) if self.digits is None else f"{value:,.{self.digits}f}"


def text_table(columns: Sequence[Column], rows: Sequence[object]) -> str:
    """For a terminal: words to the left, numbers to the right."""
    cells = [[column.title for column in columns], *([column.text(row) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if column.digits is None else cell.rjust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_table(columns: Sequence[Column], rows: Sequence[object]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    ruler = "|" + "|".join("---" if column.digits is None else "--:" for column in columns) + "|"
    body = [line([column.text(row) for column in columns]) for row in rows]
    return "\n".join([line([column.title for column in columns]), ruler, *body]) + "\n"


def csv_table(columns: Sequence[Column], rows: Sequence[object]) -> str:
    """Every digit that was measured; empty where nothing was."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.key for column in columns])
    writer.writerows([getattr(row, column.key) for column in columns] for row in rows)
    return text.getvalue()


def write_tables(
    folder: Path, name: str, columns: Sequence[Column], rows: Sequence[object], remarks: Sequence[str]
) -> None:
    """`name`.md, with the remarks below the table, and `name`.csv in `folder`, which is made if need be.

    Raises BadInput where there can be no such folder, SaveError where a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be made a folder ({error.strerror}); name another one") from error
    below = "".join(f"\nNote: {remark}\n" for remark in remarks)
    atomic_write(folder / f"{name}.md", (markdown_table(columns, rows) + below).encode())
    atomic_write(folder / f"{name}.csv", csv_table(columns, rows).encode())


# ------------------------------------------------------------------------------------------ plot


def draw_plot(rows: Sequence, front: Sequence, path: Path) -> str:
    """Draws PSNR against bytes as a PNG, a marker for each kind of model, the Pareto front as a line.

    rows, front: of `comparison.Row`. Returns why nothing was drawn; empty where it was. Matplotlib is
    an extra, tables do without it.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no window system, nothing to close
    except ImportError:
        return "matplotlib is not installed; pip install matplotlib"
    rows = [row for row in rows if row.psnr is not None]
    if not rows:
        return "no row has a PSNR"
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.step(
        [row.mb for row in front],
        [row.psnr for row in front],
        "--",
        where="post",
        color="0.6",
        lw=1,
        label="Pareto front",
    )
    for i, model in enumerate(dict.fromkeys(row.model for row in rows)):
        points = [row for row in rows if row.model == model]
        axes.scatter(
            [row.mb for row in points],
            [row.psnr for row in points],
            label=model.lstrip("_") or model,  # matplotlib leaves out labels that begin with _
            marker=MARKERS[i % len(MARKERS)],
            s=34,
            alpha=0.85,
        )
    if len({row.run for row in rows}) > 1 and len(rows) <= MOST_LABELS:
        for row in rows:
            axes.annotate(
                row.run.replace("$", r"\$"), (row.mb, row.psnr), (4, 4), textcoords="offset points", fontsize=7
            )
    axes.set(xlabel="bytes on disk, MB (1e6)", ylabel="test PSNR, dB", xscale="log")
    narrow = max(row.bytes for row in rows) < 20 * min(row.bytes for row in rows)
    axes.xaxis.set_major_formatter("{x:g}")  # 0.1, not 10^-1
    axes.xaxis.set_minor_formatter("{x:g}" if narrow else "")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png", metadata={"Software": None})
    atomic_write(path, content.getvalue())
    return ""
