"""Decode every clip of lists, report broken, short and odd ones, and write each list without the broken ones.

    python -m tools.check_data lists/*.csv --data_root /data/videos --min_frames 16

broken   missing, empty, not a video, only sound, no frames, damaged, crashes or hangs the decoder, or reading a frame
         by its number gives another frame than decoding in order
short    fewer frames than --min_frames (sampling then repeats frames)
odd      rotated or mirrored by metadata, variable frame rate, unusual pixel format, changing size, same file twice,
         a byte copy of another file, in the same list or another of those given

A segment of a video is broken if its video is or if it ends after the video, short if it has too few frames, and odd
if it overlaps with another one. --gaps also reports the stretches of videos between their segments.

Output goes to the folder checked/ next to the list: train.csv, the lines of the list without the kinds in --leave_out;
train.problems.txt, first the findings that many clips share, then one line per clip with other findings;
train.facts.jsonl, all findings. If the check is interrupted and started again, it continues where it stopped: only new
and changed files are checked.

    python -m tools.check_data boxes --data_path annotations --data_root /data/movies

checks the annotations and boxes of a data set for action detection: see tools/check_boxes.py.
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common.files import atomic_write
from common.flag_parser import FlagParser
from common.flag_types import frame_template, non_negative_int, positive, positive_int
from common.terminal import escape_output
from datasets.annotations import (
    FrameFolderRecord,
    Kind,
    ListFileError,
    Record,
    has_header,
    read_list,
    resolve_video_path,
)
from datasets.class_labels import describe_labels
from datasets.frame_names import find_first_frame
from datasets.label_names import copy_label_names
from datasets.labels import TASKS
from datasets.lists import check_any_file
from datasets.preparation.copies import find_copies
from datasets.preparation.file_check import FileJob, check_file
from datasets.preparation.output_folder import make_output_folder
from datasets.preparation.segment_check import count_frames, describe_gaps, describe_overlaps
from datasets.preparation.worker_pool import run_jobs
from datasets.segments import UNITS, Segment
from tools.check_boxes import check_boxes

MAX_PRINTED = 30
COMMON = 5  # a finding that more clips share is reported once
CHECKS = 3  # version of the checks; facts of other versions are not reused
VERDICTS = ("broken", "short", "odd", "good")
Facts = dict[str, dict]


@dataclass(frozen=True)
class CheckedList:
    """A list whose files are checked, and the folder of its results."""

    path: Path
    output: Path
    records: Sequence[Record]
    kind: Kind
    first_frame: int

    @property
    def problem_file(self) -> Path:
        """The file of its findings."""
        return self.output / f"{self.path.stem}.problems.txt"

    @property
    def journal(self) -> Path:
        """The file of all facts, which an interrupted check continues."""
        return self.output / f"{self.path.stem}.facts.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status, which is 1 if a clip is broken."""
    escape_output()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["boxes"]:
        return check_boxes(words[1:])
    options = parse_arguments(words)
    try:
        # Checking the files takes hours: what is wrong with the last list is told before those of the first are read.
        folders = _output_folders(options)
        lists = [_read(path, output, options) for path, output in zip(options.lists, folders, strict=True)]
        _create_outputs(lists)
        return _check(lists, options)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


def _check(lists: Sequence[CheckedList], options: argparse.Namespace) -> int:
    """Check all files of the lists, report and write the results; return 1 if a file is broken, else 0."""
    facts = [_check_all(checked, options) for checked in lists]
    places = _first_places(lists)
    copies = {path: places[original] for path, original in find_copies(places).items()}
    broken = 0
    for checked, found in zip(lists, facts, strict=True):
        broken += _report_and_write(checked, found, copies, options)
    _report_shared_files(lists)
    return 1 if broken else 0


def _output_folders(options: argparse.Namespace) -> list[Path]:
    """Return the folder of each list's results.

    Raises:
        ListFileError: a result would replace a list, or another result.
    """
    folders = [options.output or path.parent / "checked" for path in options.lists]
    originals = {path.resolve() for path in options.lists}
    first: dict[Path, Path] = {}
    for path, output in zip(options.lists, folders, strict=True):
        if (output / path.name).resolve() in originals:
            raise ListFileError(
                f"{output / path.name}, which is one of the lists, would be replaced by the result of {path}; name "
                "another folder with --output"
            )
        earlier = first.setdefault(output.resolve() / path.stem, path)
        if earlier is not path:
            raise ListFileError(
                f"the results of {earlier} and {path} would both be {output / path.stem}.*; rename one, or check "
                "them one by one, each with its own --output"
            )
    return folders


def _read(path: Path, output: Path, options: argparse.Namespace) -> CheckedList:
    """Read a list and describe its labels; raises where it, its root or the names of its frames are unsuitable."""
    records, kind = read_list(
        path,
        data_root=options.data_root,
        split=options.split,
        task=options.task,
        segment_unit=options.segment_unit,
    )
    check_any_file(records, path)
    first_frame = options.first_frame
    if first_frame is None:
        first_frame = 1 if kind == "video" else find_first_frame(records, options.filename_tmpl, path)
    for line in describe_labels(records, path, options.task):
        print(f"{path}: {line}")
    return CheckedList(path, output, records, kind, first_frame)


def _create_outputs(lists: Sequence[CheckedList]) -> None:
    """Create the folders of the results, with the names of the classes; raises where no journal can be written."""
    for output in {checked.output for checked in lists}:
        make_output_folder(output)
        copy_label_names([checked.path for checked in lists if checked.output == output], output)
    for checked in lists:
        open(checked.journal, "a").close()


def _report_and_write(checked: CheckedList, facts: Facts, copies: dict[str, str], options: argparse.Namespace) -> int:
    """Print the findings of a list, write it without what is left out, and return the number of broken files.

    Args:
        copies: path of a file -> list, line and path of an earlier one with the same bytes.
    """
    records = checked.records
    min_frames = 0 if checked.kind == "image" else options.min_frames
    verdicts = [_judge(facts[record.path], record.segment, min_frames) for record in records]
    _add_repeated(records, verdicts)
    _add_overlaps(records, verdicts)
    _add_copies(records, verdicts, copies)
    counts = Counter(verdict for verdict, _ in verdicts)
    problems = _describe(checked.path, records, verdicts)
    if options.gaps:
        problems += [
            f"{checked.path}, line {record.line}: {record.path}: {finding}"
            for record, finding in describe_gaps(records)
        ]
    kept = [
        record.line for record, (verdict, _) in zip(records, verdicts, strict=True) if verdict not in options.leave_out
    ]
    lines = checked.path.read_text(encoding="utf-8-sig").splitlines()
    header = [next(line for line in lines if line.strip())] if has_header(checked.path) else []
    clean = checked.output / checked.path.name
    _write(clean, header + [lines[number - 1] for number in kept])
    _write(checked.problem_file, problems)
    for problem in problems[:MAX_PRINTED]:
        print(problem)
    if len(problems) > MAX_PRINTED:
        print(f"and {len(problems) - MAX_PRINTED} more in {checked.problem_file}")
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS))
    print(f"{clean}: {len(kept)} of {len(records)} clips, without the {', '.join(options.leave_out)}")
    return counts["broken"]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", type=Path, nargs="+", metavar="LIST", help="lists of videos, frame folders or images")
    parser.add_argument("--data_root", default="", metavar="DIR", help="folder that the list's paths are relative to")
    parser.add_argument("--split", default="", metavar="SEP", help="separator of the columns (default: detected)")
    parser.add_argument(
        "--task", choices=TASKS, default=TASKS[0], help="what the labels are (default: %(default)s; docs/labels.md)"
    )
    parser.add_argument(
        "--segment_unit", choices=UNITS, help="unit of start and end in lists of segments that have no header"
    )
    parser.add_argument(
        "--gaps", action="store_true", help="also report the stretches of videos before and between their segments"
    )
    parser.add_argument(
        "--filename_tmpl",
        type=frame_template,
        default="img_{:05}.jpg",
        help="file names of frames (default: %(default)s)",
    )
    parser.add_argument(
        "--first_frame", type=non_negative_int, metavar="N", help="number of the first frame (default: detected)"
    )
    parser.add_argument(
        "--min_frames", type=positive_int, default=16, help="fewer are too short (default: %(default)s)"
    )
    parser.add_argument(
        "--leave_out",
        nargs="+",
        choices=VERDICTS[:-1],
        default=["broken"],
        help="kinds of clips to exclude from the written list (default: broken)",
    )
    parser.add_argument("--workers", type=non_negative_int, default=0, help="processes (default: one per CPU core)")
    parser.add_argument(
        "--time_limit", type=positive, default=120.0, metavar="SECONDS", help="for each file (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="output folder (default: checked/ next to the list)"
    )
    return parser.parse_args(arguments)


def _check_all(checked: CheckedList, options: argparse.Namespace) -> Facts:
    """Return the facts by path: those in the journal that are still valid, and new ones, which are added to it."""
    kind, journal, first_frame = checked.kind, checked.journal, checked.first_frame
    known = _read_journal(journal)
    jobs, stamps, facts = {}, {}, {}
    for record in checked.records:
        total = record.total_frames if isinstance(record, FrameFolderRecord) else 0
        stamps[record.path] = _stamp(record.path, total, options.filename_tmpl, first_frame)
        before = known.get(record.path)
        if before is not None and before["stamp"] == stamps[record.path]:
            facts[record.path] = before
        else:
            jobs[record.path] = FileJob(record.path, kind, total, options.filename_tmpl, first_frame)
    if facts:
        print(f"{len(facts)} of {len(facts) + len(jobs)} were checked before; delete {journal} to check them again")
    outcomes = run_jobs(check_file, jobs.values(), workers=options.workers, time_limit=options.time_limit)
    broken = 0
    with open(journal, "a", encoding="utf-8") as file, tqdm(total=len(jobs), unit="clip") as bar:
        for outcome in outcomes:
            path = outcome.job.path
            found = outcome.value or {"frames": 0, "broken": [outcome.error], "odd": [], "about": {}}
            facts[path] = {"path": path, "checks": CHECKS, "stamp": stamps[path], **found}
            file.write(json.dumps(facts[path]) + "\n")
            file.flush()
            broken += bool(found["broken"])
            bar.set_postfix(broken=broken, refresh=False)
            bar.update()
    return facts


def _read_journal(journal: Path) -> Facts:
    """Return the facts of earlier runs of these checks, ignoring a line that was cut off by a crash."""
    known: Facts = {}
    if journal.is_file():
        text = journal.read_text(encoding="utf-8")
        for line in text.splitlines():
            try:
                facts = json.loads(line)
            except ValueError:
                continue
            if facts.get("checks") == CHECKS:
                known[facts["path"]] = facts
        if text and not text.endswith("\n"):
            with open(journal, "a", encoding="utf-8") as file:
                file.write("\n")
    return known


def _stamp(path: str, total_frames: int, filename_tmpl: str, first_frame: int) -> list:
    """Return values that change whenever a file changes, or what the list says about a folder."""
    try:
        status = os.stat(resolve_video_path(path))
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, total_frames, filename_tmpl, first_frame]


def _judge(facts: dict, segment: Segment | None, min_frames: int) -> tuple[str, list[str]]:
    """Return the verdict on a file, or a segment of it, and the findings as texts."""
    broken, frames = list(facts["broken"]), facts["frames"]
    if segment and not broken:
        frames, fault = count_frames(facts, segment)
        broken += [fault] if fault else []
    if broken:
        return "broken", broken + facts["odd"]
    short = [f"{frames} frames"] if frames < min_frames else []
    return "short" if short else "odd" if facts["odd"] else "good", short + facts["odd"]


def _describe(list_file: Path, records: Sequence[Record], verdicts: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Return the findings as lines: first one for each finding that many clips share, then one per clip."""
    counts = Counter(_kind(finding) for verdict, findings in verdicts if verdict != "broken" for finding in findings)
    common = {kind for kind, count in counts.items() if count > COMMON}
    reported: set[str] = set()
    groups, singles = [], []
    for record, (verdict, findings) in zip(records, verdicts, strict=True):
        place = f"{list_file}, line {record.line}: {record.path}: {verdict}"
        shared = [finding for finding in findings if _kind(finding) in common] if verdict != "broken" else []
        for finding in shared:
            if (kind := _kind(finding)) not in reported:
                reported.add(kind)
                groups.append(f"{counts[kind]} of {len(records)} clips: {kind}, the first in {place}: {finding}")
        if alone := [finding for finding in findings if finding not in shared]:
            singles.append(f"{place}: {'; '.join(alone)}")
    return groups + singles


def _kind(finding: str) -> str:
    """Return a finding without its numbers, to group similar findings."""
    return re.sub(r"\b\d+\b", "N", finding.partition(":")[0])


def _add_repeated(records: Sequence[Record], verdicts: list[tuple[str, list[str]]]) -> None:
    """Add a finding to files, or segments of them, that the list contains more than once."""
    first: dict[tuple[str, Segment | None], Record] = {}
    for i, record in enumerate(records):
        earlier = first.setdefault((record.path, record.segment), record)
        if earlier is not record:
            label = "" if earlier.target == record.target else " with another label"
            _add_finding(verdicts, i, f"it is already in line {earlier.line}{label}")


def _add_overlaps(records: Sequence[Record], verdicts: list[tuple[str, list[str]]]) -> None:
    """Add a finding to segments that overlap with another one that is not the same."""
    places = {record.line: i for i, record in enumerate(records)}
    distinct = list({(record.path, record.segment): record for record in reversed(records)}.values())
    for record, finding in describe_overlaps(distinct, {line: f"line {line}" for line in places}):
        _add_finding(verdicts, places[record.line], finding)


def _add_finding(verdicts: list[tuple[str, list[str]]], place: int, finding: str) -> None:
    """Add something unusual about the clip at a place of the list."""
    verdict, findings = verdicts[place]
    verdicts[place] = ("odd" if verdict == "good" else verdict, [*findings, finding])


def _first_places(lists: Sequence[CheckedList]) -> dict[str, str]:
    """Where each path stands first: path -> list, line and path."""
    places: dict[str, str] = {}
    for checked in lists:
        for record in checked.records:
            places.setdefault(record.path, f"{checked.path}, line {record.line}: {record.path}")
    return places


def _add_copies(records: Sequence[Record], verdicts: list[tuple[str, list[str]]], copies: dict[str, str]) -> None:
    """Note files that are a byte copy of an earlier one, in the same list or another."""
    for i, record in enumerate(records):
        if record.path in copies:
            _add_finding(verdicts, i, f"it is a byte copy of {copies[record.path]}")


def _report_shared_files(lists: Sequence[CheckedList]) -> None:
    """Print how many files two lists have in common."""
    for i, later in enumerate(lists):
        for earlier in lists[:i]:
            shared = {record.path for record in later.records} & {record.path for record in earlier.records}
            if shared:
                print(f"{len(shared)} files are in both {earlier.path} and {later.path}")


def _write(path: Path, lines: Sequence[str]) -> None:
    with atomic_write(path, "w") as file:
        file.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
