"""Write train.csv, val.csv, test.csv and labels.txt from the annotation files of a data set.

    python -m tools.make_lists folder   VIDEOS --output lists
    python -m tools.make_lists kinetics VIDEOS --train train.csv --val val.csv --output lists
    python -m tools.make_lists ssv2     VIDEOS --train train.json --val val.json --labels labels.json --output lists
    python -m tools.make_lists ucf101   VIDEOS --splits ucfTrainTestlist --fold 1 --output lists
    python -m tools.make_lists hmdb51   VIDEOS --splits testTrainMulti_7030_splits --fold 1 --output lists
    python -m tools.make_lists jhmdb    VIDEOS --splits splits --fold 1 --output lists
    python -m tools.make_lists imagenet IMAGES --output lists
    python -m tools.make_lists ava      VIDEOS --annotations ANNOTATIONS --output lists
    python -m tools.make_lists breakfast VIDEOS --output lists
    python -m tools.make_lists coin     VIDEOS --annotations COIN.json --output lists
    python -m tools.make_lists lvu      VIDEOS --annotations lvu_1.0 --task director --output lists
    python -m tools.make_lists label_studio VIDEOS --annotations export.json --output lists
    python -m tools.make_lists table    VIDEOS --annotations labels.csv --task multilabel --output lists

VIDEOS may contain frame folders instead of videos. The paths in the lists are relative to it: pass it as --data_root
when training. Clips that the annotations name but the folder does not contain are listed in missing.txt. If there is
no validation split, a fraction of each class's training clips is used; clips of the same recording stay together.

Segments of videos labelled in another program (label_studio, cvat, via, elan, fiftyone, createml) or found by
`run_inference.py --segments` (timeline) become lists of segments; all segments of a video stay in one split.

A table has the video in its first column and then one for each class (0 or 1) or target (a number), named in line 1.

For AVA, the files for action detection are written: those of ANNOTATIONS without the missing videos.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common.files import atomic_write
from common.flag_parser import FlagParser
from common.flag_types import proper_fraction, seed
from common.terminal import escape_output
from datasets.annotations import FrameFolderRecord, Kind, Record, VideoRecord
from datasets.label_names import LABELS
from datasets.labels import TASKS
from datasets.list_writing import format_list
from datasets.preparation.ava_lists import read_ava
from datasets.preparation.list_sources import (
    read_folder,
    read_hmdb51,
    read_image_folder,
    read_jhmdb,
    read_kinetics,
    read_something_something,
    read_ucf101,
)
from datasets.preparation.list_splits import Clip, Lists, split_off
from datasets.preparation.list_summary import describe, first_of, printable
from datasets.preparation.long_video_sources import read_breakfast, read_coin, read_lvu
from datasets.preparation.media_index import Found, MediaIndex, SourceError
from datasets.preparation.output_folder import make_output_folder
from datasets.preparation.segment_check import describe_gaps, describe_overlaps
from datasets.preparation.segment_exports import READERS, read_segments
from datasets.preparation.source_files import lines_of
from datasets.preparation.table_source import TABLE, read_table
from datasets.presets import LVU_CLASSES
from datasets.readers.header import describe_excess
from datasets.segments import Segment

WRITTEN = ("train.csv", "val.csv", "test.csv", LABELS, "missing.txt")
AVA_WRITTEN = (
    *("train.csv", "val.csv", "test.csv", "val_predicted_boxes.csv", "test_predicted_boxes.csv"),
    *("exclusions.csv", "label_map.pbtxt", "missing.txt"),
)
PUBLISHED = ("folder", "kinetics", "ssv2", "ucf101", "hmdb51", "jhmdb", "imagenet", "ava", "breakfast", "coin", "lvu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    escape_output()
    options = parse_arguments(arguments)
    try:
        if options.form == "ava":
            _make_ava(options)
            return 0
        lists = _read(options)
        _add_splits(lists.splits, options, lists.source.group_by)
        _write(lists, options)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for line in describe(lists, options):
        print(line)
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="form", required=True)
    for form in (*PUBLISHED, TABLE, *READERS):
        command = commands.add_parser(form, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("root", type=Path, help="folder of the videos, frame folders or images")
        command.add_argument("--output", type=Path, required=True, help="output folder of the lists")
        command.add_argument("--overwrite", action="store_true", help="replace existing lists")
        if form == "ava":
            command.add_argument(
                "--annotations", type=Path, required=True, metavar="DIR", help="AVA's CSV files and its label map"
            )
            command.add_argument("--person_boxes", default="", metavar="FILE", help="detected persons, as SlowFast's")
            continue
        command.add_argument(
            "--val_share",
            type=proper_fraction,
            default=0.1,
            help="fraction of the training clips for validation, if the data set has no such split",
        )
        command.add_argument(
            "--test_share", type=proper_fraction, default=0.0, help="the same for the test, if it has no such split"
        )
        command.add_argument("--seed", type=seed, default=0, help="random seed of these splits")
        command.add_argument(
            "--group_by", default="", metavar="REGEX", help="keep clips whose paths have the same match in one split"
        )
        _add_files(command, form)
        if form in ("kinetics", "ssv2"):
            command.add_argument("--train", type=Path, required=True, metavar="FILE")
            command.add_argument("--val", type=Path, metavar="FILE")
            command.add_argument("--test", type=Path, metavar="FILE")
        if form == "ssv2":
            command.add_argument("--labels", type=Path, required=True, metavar="FILE", help="its labels.json")
        if form in ("ucf101", "hmdb51", "jhmdb"):
            command.add_argument("--splits", type=Path, required=True, metavar="DIR", help="its folder of split files")
            command.add_argument("--fold", type=int, choices=(1, 2, 3), default=1, help="which of the three splits")
    options = parser.parse_args(arguments)
    if options.form == "ava":
        return options
    try:
        re.compile(options.group_by)
    except re.error as error:
        parser.error(f"--group_by {options.group_by}: {error}")
    return options


def _add_files(command: argparse.ArgumentParser, form: str) -> None:
    """Add the flags of the annotation files of long videos and segments."""
    if form in READERS:
        command.add_argument("--annotations", type=Path, nargs="+", required=True, metavar="FILE", help="exports")
        command.add_argument(
            "--labels", type=Path, metavar="FILE", help="names of the classes, one a line (default: all, sorted)"
        )
        command.add_argument("--gaps", action="store_true", help="name the stretches between the segments of a video")
    if form == "coin":
        command.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COIN.json")
    if form == TABLE:
        command.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="the table")
        command.add_argument("--task", choices=TASKS[1:], required=True, help="what its columns are: classes, targets")
    if form == "lvu":
        command.add_argument("--annotations", type=Path, required=True, metavar="DIR", help="its folder lvu_1.0")
        command.add_argument("--task", choices=tuple(LVU_CLASSES), required=True, help="which of its tasks")


def _read(options: argparse.Namespace) -> Lists:
    """Find the clips with their splits and classes."""
    if options.form == "imagenet":
        source, images, passed_over = read_image_folder(options.root)
        by_path = {image.path: image for image in images}
        splits = {
            split: [Clip(by_path[entry.names[0]], entry.label) for entry in entries]
            for split, entries in source.splits.items()
        }
        return Lists(source, "image", splits, passed_over=passed_over)
    index = MediaIndex(options.root)
    if options.form == "folder":
        source = read_folder(options.root, index)
    elif options.form == "breakfast":
        source = read_breakfast(index)
    elif options.form == "coin":
        source = read_coin(options.annotations)
    elif options.form == "lvu":
        source = read_lvu(options.annotations, options.task)
    elif options.form == TABLE:
        source = read_table(options.annotations, options.task)
    elif options.form in READERS:
        names = [line for _, line in lines_of(options.labels)] if options.labels else []
        source = read_segments(options.form, options.annotations, names)
    elif options.form in ("kinetics", "ssv2"):
        named = {split: getattr(options, split) for split in ("train", "val", "test")}
        files = {split: file for split, file in named.items() if file}
        source = (
            read_kinetics(files) if options.form == "kinetics" else read_something_something(files, options.labels)
        )
    else:
        read = {"ucf101": read_ucf101, "hmdb51": read_hmdb51, "jhmdb": read_jhmdb}[options.form]
        source = read(options.splits, options.fold)
    lists = Lists(source, index.kind, frame_flags=_frame_flags(index), passed_over=index.passed_over)
    for split, entries in source.splits.items():
        if not entries:
            raise SourceError(f"the annotation files of the data set contain no {split} clip")
        clips, places = lists.splits.setdefault(split, []), []
        for entry in entries:
            found, reason = index.find(entry.names)
            if found and entry.segment:
                reason = _segment_fault(found, entry.segment, index)
            if found and not reason:
                clips.append(Clip(found, entry.label, entry.segment))
                places.append(entry.place)
            else:
                lists.missing.append(f"{split}: {entry.names[0]} ({entry.place}): {reason}")
        if options.form in READERS:
            source.notes.extend(_describe_stretches(clips, places, gaps=options.gaps))
        if not clips:
            raise SourceError(
                f"{options.root}: none of the {len(entries)} {split} clips can be used, the first is "
                f"{lists.missing[-len(entries)]}"
            )
    return lists


def _describe_stretches(clips: Sequence[Clip], places: Sequence[str], *, gaps: bool) -> list[str]:
    """Return a line for each overlap of the segments of a video, and for each gap if they are asked for."""
    records = [VideoRecord(clip.found.path, clip.label, line, clip.segment) for line, clip in enumerate(clips)]
    overlaps = describe_overlaps(records, dict(enumerate(places)))
    notes = [f"warning: {places[record.line]}: {record.path}: {finding}" for record, finding in overlaps]
    found = describe_gaps(records) if gaps else ()
    return notes + [f"{places[record.line]}: {record.path}: {finding}" for record, finding in found]


def _segment_fault(found: Found, segment: Segment, index: MediaIndex) -> str:
    """Say why a file or folder does not have a segment; empty if it does, as far as is known without decoding."""
    if index.kind == "video":
        return describe_excess(index.root / found.path, segment)
    if segment.unit == "seconds":
        return "a folder of frames has no seconds; give the segments in frames"
    return f"has {found.total_frames} frames, but the segment is {segment}" if segment.end > found.total_frames else ""


def _frame_flags(index: MediaIndex) -> list[str]:
    flags = []
    if index.filename_tmpl not in ("", "img_{:05}.jpg"):
        flags += ["--filename_tmpl", index.filename_tmpl]
    if index.first_frame != 1:
        flags += ["--first_frame", str(index.first_frame)]
    return flags if index.kind == "frames" else []


def _add_splits(splits: dict[str, list[Clip]], options: argparse.Namespace, group_by: str) -> None:
    """Create the requested splits that the data set does not have."""
    for split in ("test", "val"):
        share = getattr(options, f"{split}_share")
        if split not in splits and share:
            # Different seeds, so that the two splits do not choose the same positions.
            seed = options.seed + (split == "test")
            splits["train"], splits[split] = split_off(splits["train"], share, seed, options.group_by or group_by)
    if "val" not in splits:
        splits["val"] = splits.get("test", [])


def _write(lists: Lists, options: argparse.Namespace) -> None:
    """Write lists, labels.txt and missing.txt."""
    texts = {
        f"{split}.csv": format_list([_record(clip, lists.kind) for clip in clips], lists.kind)
        for split, clips in lists.splits.items()
        if clips
    }
    texts[LABELS] = "".join(f"{name}\n" for name in lists.source.label_names)
    if lists.missing:
        texts["missing.txt"] = "".join(f"{line}\n" for line in lists.missing)
    _write_texts(texts, WRITTEN, options)


def _make_ava(options: argparse.Namespace) -> None:
    """Write the files for action detection and print a summary."""
    lists = read_ava(options.root, options.annotations, options.person_boxes)
    missing = {"missing.txt": "".join(f"{line}\n" for line in lists.missing)} if lists.missing else {}
    _write_texts(lists.texts | missing, AVA_WRITTEN, options)
    for split, videos in lists.videos.items():
        rows = lists.texts[f"{split}.csv"].count("\n")
        print(f"{split}: {len(videos)} videos, {rows} rows")
    for line in map(printable, lists.notes):
        print(line)
    for line in first_of("missing", lists.missing, f"missing in total: {options.output / 'missing.txt'}"):
        print(line)
    words = ["--data_path", options.output, "--data_root", lists.root]
    print("check with: python -m tools.check_data boxes", shlex.join(map(str, words)))
    print("train with:", shlex.join(map(str, words)))


def _write_texts(texts: dict[str, str], names: Sequence[str], options: argparse.Namespace) -> None:
    """Write files; with --overwrite, replace or remove earlier ones, all of whose names are in `names`."""
    there = [name for name in names if (options.output / name).exists()]
    if there and not options.overwrite:
        raise SourceError(f"{options.output} already contains {', '.join(there)}; --overwrite replaces them")
    make_output_folder(options.output)
    for name in set(there) - texts.keys():
        # An old list must not be mistaken for one of the new ones.
        (options.output / name).unlink()
    for name, text in texts.items():
        with atomic_write(options.output / name, "w") as file:
            file.write(text)


def _record(clip: Clip, kind: Kind) -> Record:
    found, label, segment = clip
    return (
        VideoRecord(found.path, label, 0, segment)
        if kind == "video"
        else FrameFolderRecord(found.path, found.total_frames, label, 0, segment)
    )


if __name__ == "__main__":
    raise SystemExit(main())
