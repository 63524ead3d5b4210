"""The paper's own numbers (Gan et al., AAAI 2022), to stand beside ours. Another scale: base-size models, real data.

Scores in per cent, as printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vltickets.reports.tables import Table

Row = tuple[str, Sequence[str]]
COLUMNS = ("VQA", "GQA", "VCR Q→AR", "NLVR2", "SNLI-VE", "RefCOCO+", "IR R@1", "TR R@1")
SCALE = (
    "The paper's own numbers, of base-size models on the real data sets: another scale, not to be compared number by "
    "number. Mean ± std of three runs; numbers without a spread are of one run, or printed so."
)
TABLE_1: Sequence[Row] = (
    ("sparsity", ("70 %", "70 %", "50 %", "60 %", "60 %", "70 %", "60 %", "60 %")),
    ("full, in UNITER's paper", ("70.75", "–", "54.94", "77.18", "78.59", "75.31", "72.52", "85.90")),
    (
        "full",
        (
            "70.64 ± 0.06",
            "59.64 ± 0.15",
            "54.37 ± 0.31",
            "76.75 ± 0.19",
            "78.47 ± 0.10",
            "74.73 ± 0.06",
            "71.25 ± 0.11",
            "84.63 ± 1.02",
        ),
    ),
    ("× 99 %", ("69.93", "59.04", "53.83", "75.98", "77.69", "73.98", "70.54", "83.78")),
    (
        "ticket",
        (
            "69.98 ± 0.05",
            "59.26 ± 0.09",
            "53.15 ± 1.02",
            "76.32 ± 0.41",
            "77.69 ± 0.07",
            "74.06 ± 0.27",
            "70.15 ± 0.71",
            "83.77 ± 0.76",
        ),
    ),
    ("random", ("60.45", "55.95", "25.35", "52.42", "71.30", "72.95", "61.44", "76.80")),
    ("text-only", ("67.98", "58.45", "50.39", "54.15", "76.45", "71.09", "63.38", "79.30")),
    ("shuffled-within", ("60.46", "47.49", "6.25", "51.52", "69.32", "67.34", "38.94", "48.00")),
)
TABLE_2: Sequence[Row] = (
    ("0 %", ("70.64", "59.64", "54.37", "76.75", "78.47", "74.73", "71.25", "84.63", "–", "–")),
    ("50 %", ("70.52", "59.41", "52.01", "76.71", "78.08", "74.12", "70.62", "83.90", "1.00", "0.52")),
    ("60 %", ("70.41", "59.44", "50.37", "75.52", "77.79", "74.41", "70.18", "82.40", "1.88", "1.10")),
    ("70 %", ("69.45", "59.02", "47.52", "74.29", "77.34", "73.45", "68.36", "80.00", "3.90", "2.66")),
    ("80 %", ("68.38", "58.01", "42.99", "69.98", "76.32", "72.58", "65.82", "80.00", "6.80", "4.78")),
)
TABLE_3: Sequence[Row] = (
    ("sparsity", ("70 %", "70 %", "70 %")),
    ("full, in LXMERT's paper", ("69.90", "59.80", "74.95")),
    ("full", ("69.95 ± 0.03", "59.91 ± 0.07", "74.90 ± 0.26")),
    ("× 99 %", ("69.25", "59.31", "74.15")),
    ("ticket", ("69.29 ± 0.10", "59.40 ± 0.17", "74.03 ± 0.71")),
    ("random", ("65.22 ± 0.05", "47.88 ± 0.55", "51.38 ± 0.45")),
)
TABLE_4: Sequence[Row] = (
    ("sparsity", ("30 %", "30 %")),
    ("full", ("70.88 ± 0.05", "75.82 ± 0.20")),
    ("× 99 %", ("70.17", "75.06")),
    ("ticket", ("70.51 ± 0.11", "75.22 ± 0.41")),
    ("random", ("65.16 ± 0.05", "56.14 ± 0.40")),
)
TABLE_5: Sequence[Row] = (
    ("60 % (Std.)", ("70.41", "59.44", "50.37", "75.52", "77.79", "74.41")),
    ("60 % (Adv.)", ("70.80", "59.85", "51.07", "76.70", "77.99", "74.74")),
    ("70 % (Std.)", ("69.45", "59.02", "47.52", "74.29", "77.34", "73.45")),
    ("70 % (Adv.)", ("69.79", "59.37", "48.50", "75.29", "77.51", "74.08")),
)
HEADERS: Mapping[str, Sequence[str]] = {
    "table1": COLUMNS,
    "table2": (*COLUMNS, "drop, all", "drop, w/o VCR"),
    "table3": ("VQA", "GQA", "NLVR2"),
    "table4": ("VQA", "NLVR2"),
    "table5": COLUMNS[:6],
}
ROWS = {"table1": TABLE_1, "table2": TABLE_2, "table3": TABLE_3, "table4": TABLE_4, "table5": TABLE_5}


def published(artefact: str) -> Table:
    """Return a table of the paper as it is printed, to be folded away beside ours."""
    rows = [[name, *values] for name, values in ROWS[artefact]]
    return Table("In the paper", ["", *HEADERS[artefact]], rows, SCALE, aside=True)
