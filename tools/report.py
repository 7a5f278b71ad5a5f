"""Recreate a run's report without its model: `python -m tools.report OUTPUT_DIR`.

Reads results.json, log.txt and args.json in the folder, writes report.html, training_curve.png and
confusion_matrix.png there, and prints top-1 and chance level. Sample frames are included if the test's videos are
available.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from common.flag_parser import FlagParser
from common.terminal import escape_output
from datasets.label_names import read_label_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", type=Path, help="the --output_dir of a run")
    parser.add_argument(
        "--label_names", type=Path, help="one class name per line, in the order of the labels (default: the run's own)"
    )
    options = parser.parse_args(arguments)
    try:
        names = read_label_names(options.label_names) if options.label_names else None
        if not options.output_dir.is_dir():
            raise NotADirectoryError(f"{options.output_dir} is not a folder; give the --output_dir of a run")
        from reports.page import write_report  # here because it takes a second to import

        dataset, problem = tested_dataset(options.output_dir)
        page = write_report(options.output_dir, dataset, label_names=names, no_pictures=problem)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if problem:
        print(f"without sample frames: {problem}", file=sys.stderr)
    results_file = options.output_dir / "results.json"
    if results_file.is_file():
        results = json.loads(results_file.read_text(encoding="utf-8"))
        print(
            f"test {_score(results)}, {results['videos']} videos x {results['views']} views, "
            f"{len(results['excluded'])} excluded"
        )
    print(f"report: {page}")
    return 0


def _score(results: dict) -> str:
    if "classes" in results:
        return f"top-1 {results['top1']:.2f} % (chance {100 / results['classes']:.2f} %)"
    return ", ".join(f"{name} {value:.4g}" for name, value in results["figures"].items())


def tested_dataset(output_dir: Path) -> tuple:
    """Return (data set that a run tested, rebuilt from its args.json; None), or (None, reason) if that fails."""
    files = [output_dir / "results.json", output_dir / "args.json"]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        return None, f"{' and '.join(missing)} not found"
    # Here because PyTorch takes seconds to import.
    from datasets.arguments import DataSettings
    from datasets.build import build_dataset
    from datasets.detection.arguments import DetectionSettings
    from datasets.detection.build import build_detection_dataset
    from engines.results import describe_list

    results, settings = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    args = argparse.Namespace(**settings)
    try:
        if results.get("objective") == "Detection":
            dataset = build_detection_dataset("test", DetectionSettings.from_flags(args))
        else:
            # run_pretrain_imagenet.py tests the validation list, also if there is a test list.
            args.test_list = results.get("list", {}).get("file") or args.test_list
            dataset = build_dataset("test", DataSettings.from_flags(args))
    except (OSError, ValueError, AttributeError) as error:
        return None, f"the test list cannot be read: {error}"
    if describe_list(dataset, args.data_root)["sha256"] != results.get("list", {}).get("sha256"):
        return None, f"{dataset.list_file} is not the list that was tested"
    return dataset, None


if __name__ == "__main__":
    raise SystemExit(main())
