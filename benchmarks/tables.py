"""Writes the tables of README.md and docs/*.md from the measurements in docs/results.

python benchmarks/tables.py [--check]

A table stands between `<!-- results NAME... -->` and `<!-- end -->`, one row a model of each named
file. With --check nothing is written; the exit status is 1 where a table is out of date.
"""

import re
import sys

from tables_of_runs import (
    ROOT,
    experiments_table,
    ingredients_table,
    light_field_table,
    quality_table,
    results_table,
    scales_table,
    shiny_table,
)
from tables_of_times import (
    field_table,
    frames_table,
    light_field_frames_table,
    memory_table,
    mlp_table,
    rate_table,
    speed_table,
    step_times_table,
    steps_table,
    tensorf_table,
    web_page_table,
)

MAKERS = {
    "rate": rate_table,
    "tensorf": tensorf_table,
    "results": results_table,
    "speed": speed_table,
    "frames": frames_table,
    "mlp": mlp_table,
    "steps": steps_table,
    "memory": memory_table,
    "field": field_table,
    "experiments": experiments_table,
    "step_times": step_times_table,
    "ingredients": ingredients_table,
    "scales": scales_table,
    "shiny": shiny_table,
    "light_field": light_field_table,
    "light_field_frames": light_field_frames_table,
    "web_page": web_page_table,
    "quality": quality_table,
}
BLOCK = re.compile(rf"(<!-- ({'|'.join(MAKERS)}) ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    out_of_date = 0
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = page.read_text()
        new = BLOCK.sub(lambda m: m[1] + MAKERS[m[2]](m[3].split()) + m[4], old)
        out_of_date += new != old
        if "--check" not in sys.argv:
            page.write_text(new)
    return int("--check" in sys.argv and out_of_date > 0)


if __name__ == "__main__":
    sys.exit(main())
