"""Compare two tests on the same list: `python -m tools.compare A/results.json B/results.json`.

Prints the difference in top-1 with McNemar's test, and the classes that differ most, each with its own test and Holm's
correction for multiple testing. Videos that one of the runs could not read are excluded and counted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.files import write_json
from common.flag_parser import FlagParser
from common.flag_types import non_negative_int
from common.terminal import escape_output
from inference.output_files import check_writable
from reports.class_names import class_names
from reports.comparison import Outcome, compare, read_results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("a", type=Path, metavar="A/results.json")
    parser.add_argument("b", type=Path, metavar="B/results.json")
    parser.add_argument(
        "--classes", type=non_negative_int, default=20, help="number of classes to print, largest difference first"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the complete comparison to this file")
    options = parser.parse_args(arguments)
    try:
        if options.json:
            check_writable("--json", options.json)
        first, second = read_results(options.a), read_results(options.b)
        outcome = compare(first, second)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"A {options.a}: {first['model']}, {first['weights']}\nB {options.b}: {second['model']}, {second['weights']}"
    )
    names = class_names(first if first.get("label_names") else second)
    print(describe(outcome, names, options.classes))
    if options.json:
        write_json(options.json, as_plain(outcome))
    return 0


def describe(outcome: Outcome, names: Sequence[str], limit: int) -> str:
    """Format the comparison as text with a table of the `limit` classes that differ most."""
    overall = outcome.overall
    lines = [
        f"{overall.videos} videos"
        + (f"; {outcome.left_out} read by only one run are excluded" if outcome.left_out else ""),
        f"top-1: A {overall.accuracy_a:.2f} %, B {overall.accuracy_b:.2f} %, B - A = {overall.difference:+.2f} "
        f"points (95 % interval {overall.difference - overall.half_width:+.2f} to "
        f"{overall.difference + overall.half_width:+.2f})",
        f"correct only in A: {overall.only_a}, only in B: {overall.only_b}; McNemar's test p = {overall.p_value:.4g}",
        "",
        f"{'class':<24} {'videos':>6} {'A %':>7} {'B %':>7} {'B - A':>7} {'only A':>7} {'only B':>7} {'p':>9} "
        f"{'p (Holm)':>9}",
    ]
    ranked = sorted(outcome.classes.items(), key=lambda item: (-abs(item[1].difference), item[1].p_value, item[0]))
    for label, entry in ranked[:limit]:
        lines.append(
            f"{names[label][:24]:<24} {entry.videos:>6} {entry.accuracy_a:>7.1f} {entry.accuracy_b:>7.1f} "
            f"{entry.difference:>+7.1f} {entry.only_a:>7} {entry.only_b:>7} {entry.p_value:>9.3g} "
            f"{outcome.corrected[label]:>9.3g}"
        )
    if len(ranked) > limit:
        lines.append(f"and {len(ranked) - limit} more classes (--classes, --json)")
    return "\n".join(lines)


def as_plain(outcome: Outcome) -> dict[str, Any]:
    """Return the comparison as plain values for a JSON file."""
    overall = vars(outcome.overall) | {"difference": outcome.overall.difference, "left_out": outcome.left_out}
    classes = [
        {"label": label} | vars(entry) | {"difference": entry.difference, "p_holm": outcome.corrected[label]}
        for label, entry in outcome.classes.items()
    ]
    return {"overall": overall, "classes": classes}


if __name__ == "__main__":
    raise SystemExit(main())
