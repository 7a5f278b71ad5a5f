"""Re-encode videos so that random frames can be read cheaply.

    python -m tools.prepare_videos lists/*.csv --data_root /data/videos --output /data/videos_256
    python -m tools.prepare_videos lists/*.csv --data_root /data/videos --output /data/frames_256 --form frames

Videos become H.264 with a short side of 256 and a key frame every 4 frames, or folders of JPEGs. OUTPUT then contains
them, the lists under their old names and labels.txt; train with --data_path OUTPUT --data_root OUTPUT. Frame numbers
do not change. docs/data.md describes how the pictures are processed.

A video that cannot be read is reported and excluded from the lists, and the exit status is 1. If the tool is
interrupted and started again, it continues where it stopped.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from common.files import atomic_write, write_json
from common.flag_parser import FlagParser
from common.flag_types import non_negative_int, positive
from common.settings import add_options, from_flags
from common.terminal import escape_output
from datasets.annotations import (
    VIDEO_SUFFIXES,
    FrameFolderRecord,
    Record,
    VideoRecord,
    read_list,
    resolve_video_path,
)
from datasets.label_names import copy_label_names
from datasets.labels import TASKS
from datasets.list_writing import format_list
from datasets.preparation.output_folder import make_output_folder
from datasets.preparation.reencode import FRAME_NAME, Preparation, VideoJob, prepare_video
from datasets.preparation.source_files import json_of
from datasets.preparation.worker_pool import run_jobs
from datasets.readers import UnreadableVideoError, VideoFile
from datasets.readers.part import frame_range
from datasets.segments import UNITS, Segment

SETTINGS = "prepared.json"
# Increased whenever the same settings give other frames: 2 since frames are numbered in display order. Folders without
# a version have version 1.
VERSION = 2


class PreparationError(ValueError):
    """Lists or folders are unsuitable; the message says which and why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status, which is 1 if a video could not be prepared."""
    escape_output()
    options = parse_arguments(arguments)
    preparation = from_flags(Preparation, options)
    try:
        lists = {path: _read_videos(path, options) for path in options.lists}
        targets = _name_targets([record for records in lists.values() for record in records], options)
        since = _check_folder(options.output, preparation, options.lists)
        copy_label_names(options.lists, options.output)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    failures = _prepare(targets, preparation, options, since)
    beyond = []
    for path, records in lists.items():
        done, faults = _in_frames(path, [record for record in records if record.path not in failures])
        beyond += faults
        _write_list(options.output / path.name, done, targets, options)
        print(f"{options.output / path.name}: {len(done)} of {len(records)} videos")
    for place, reason in [*failures.items(), *beyond]:
        print(f"not prepared: {place}: {reason}")
    done = targets.keys() - failures.keys()
    before, after = sum(_size(resolve_video_path(path)) for path in done), sum(_size(targets[path]) for path in done)
    print(f"{len(done)} videos: {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB now")
    return 1 if failures or beyond else 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", type=Path, nargs="+", metavar="LIST", help="lists of videos")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--data_root", default="", metavar="DIR", help="folder that the lists' paths are relative to")
    parser.add_argument("--split", default="", metavar="SEP", help="separator of the columns (default: detected)")
    parser.add_argument(
        "--task", choices=TASKS, default=TASKS[0], help="what the labels are (default: %(default)s; docs/labels.md)"
    )
    parser.add_argument(
        "--segment_unit", choices=UNITS, help="unit of start and end in lists of segments that have no header"
    )
    add_options(parser, Preparation)
    parser.add_argument("--workers", type=non_negative_int, default=0, help="processes (default: one per CPU core)")
    parser.add_argument(
        "--time_limit", type=positive, default=1800.0, metavar="SECONDS", help="for each video (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def _read_videos(path: Path, options: argparse.Namespace) -> list[VideoRecord]:
    records, kind = read_list(
        path,
        data_root=options.data_root,
        split=options.split,
        task=options.task,
        segment_unit=options.segment_unit,
    )
    if kind != "video":
        raise PreparationError(f"{path} is a list of {kind}, but only videos can be prepared")
    return records


def _name_targets(records: Sequence[Record], options: argparse.Namespace) -> dict[str, Path]:
    """Return the output path of each video, relative as it is to --data_root.

    Raises:
        PreparationError: two videos have the same output, the output of one would contain that of another or of an
            earlier run, or a video would be overwritten.
    """
    targets: dict[str, Path] = {}
    sources: dict[Path, str] = {}
    root = os.path.abspath(options.data_root)
    for path in dict.fromkeys(record.path for record in records):
        whole = os.path.abspath(path)
        name = os.path.relpath(whole, root) if whole.startswith(root + os.sep) else whole.lstrip(os.sep)
        stem, suffix = os.path.splitext(name)
        bare = stem if suffix.lower() in VIDEO_SUFFIXES else name
        target = options.output / (f"{bare}.mp4" if options.form == "videos" else bare)
        if target in sources:
            raise PreparationError(f"{sources[target]} and {path} would both become {target}; rename one")
        source = resolve_video_path(path)
        # A video that is no longer there has its error when it is prepared, and the others are prepared.
        if target.exists() and os.path.exists(source) and os.path.samefile(source, target):
            raise PreparationError(f"{path} would be overwritten; --output must be another folder")
        targets[path], sources[target] = target, path
    if options.form == "frames":
        _refuse_nested(sources)
    return targets


def _refuse_nested(sources: dict[Path, str]) -> None:
    """Raise a PreparationError if a folder of frames would contain another, which would be deleted or counted with it.

    Args:
        sources: output folder -> path of the video.
    """
    for target, path in sources.items():
        for folder in target.parents:
            if folder in sources:
                raise PreparationError(
                    f"{sources[folder]} would become the folder {folder}, which would also contain {target}, the "
                    f"frames of {path}; rename one, or choose --form videos"
                )
            if (folder / FRAME_NAME.format(1)).exists():
                raise PreparationError(
                    f"{path} would become {target}, inside the folder {folder}, which contains the frames of another "
                    "video; choose another --output, or --form videos"
                )
        inside = next((entry.path for entry in os.scandir(target) if entry.is_dir()), "") if target.is_dir() else ""
        if inside:
            raise PreparationError(
                f"{path} would become the folder {target}, which already contains {inside}, made from other videos; "
                "choose another --output, or --form videos"
            )


def _check_folder(output: Path, preparation: Preparation, lists: Sequence[Path]) -> int:
    """Record the settings in a new output folder, or compare them with those of an earlier run.

    Returns:
        the time in ns since 1970 before which files in the folder are outdated: when this version started to redo the
        files of an older one, else 0. It is stored in the folder, so that redoing them can be interrupted.

    Raises:
        PreparationError: the folder has other settings or other content.
    """
    names = [path.name for path in lists]
    if len(set(names)) < len(names):
        raise PreparationError(f"two of the lists have the same name: {', '.join(map(str, lists))}")
    settings = output / SETTINGS
    wanted = asdict(preparation)
    if settings.is_file():
        found = json_of(settings, dict)
        version, since = found.pop("version", 1), found.pop("since", 0)
        if found != wanted:
            raise PreparationError(f"{output} was prepared with {found}, not {wanted}; choose another folder")
        if version > VERSION:
            raise PreparationError(f"{output} was prepared by a later version of this tool; choose another folder")
        if version < VERSION:
            print(f"{output} was prepared by an earlier version, which may have numbered frames wrongly: redoing all")
            since = time.time_ns()
            write_json(settings, wanted | {"version": VERSION, "since": since})
        return since
    if output.is_dir() and any(output.iterdir()):
        raise PreparationError(
            f"{output} contains other files, and no {SETTINGS} of an earlier run; choose another folder"
        )
    make_output_folder(output)
    write_json(settings, wanted | {"version": VERSION})
    return 0


def _prepare(
    targets: dict[str, Path], preparation: Preparation, options: argparse.Namespace, since: int
) -> dict[str, str]:
    """Prepare the videos that are not done yet, and return the error of each one that failed."""
    todo = {path: target for path, target in targets.items() if not _is_done(path, target, since)}
    jobs = [VideoJob(path, target, preparation) for path, target in todo.items()]
    if len(jobs) < len(targets):
        print(f"{len(targets) - len(jobs)} of {len(targets)} are already done")
    failures = {}
    outcomes = run_jobs(prepare_video, jobs, workers=options.workers, time_limit=options.time_limit)
    with tqdm(total=len(jobs), unit="video") as bar:
        for outcome in outcomes:
            if outcome.error:
                failures[outcome.job.source] = outcome.error
                bar.set_postfix(failed=len(failures), refresh=False)
            bar.update()
    return failures


def _is_done(source: str, target: Path, since: int) -> bool:
    """Return whether the target exists and is not older than its source or `since` (ns)."""
    try:
        return target.stat().st_mtime_ns >= max(since, os.stat(resolve_video_path(source)).st_mtime_ns)
    except OSError:
        return False


def _in_frames(list_file: Path, records: Sequence[VideoRecord]) -> tuple[list[VideoRecord], list[tuple[str, str]]]:
    """Turn segments into frames, whose numbers stay while their times become uniform, and folders have none.

    Returns:
        The records; the place and the reason of each segment that reaches beyond the end of its video.
    """
    open_video = lru_cache(maxsize=1)(VideoFile)
    kept, beyond = [], []
    for record in records:
        try:
            segment = record.segment and Segment(*frame_range(open_video(record.path), record.segment), unit="frames")
            kept.append(replace(record, segment=segment))
        except UnreadableVideoError as error:
            beyond.append((f"{list_file}, line {record.line}: {record.path}", error.reason))
    return kept, beyond


def _write_list(
    path: Path, records: Sequence[VideoRecord], targets: dict[str, Path], options: argparse.Namespace
) -> None:
    """Write a list of the prepared files, with paths relative to the output folder."""
    written: list[Record] = []
    for record in records:
        target, segment = targets[record.path], record.segment
        name = target.relative_to(options.output).as_posix()
        if options.form == "videos":
            written.append(VideoRecord(name, record.target, record.line, segment))
        else:
            written.append(FrameFolderRecord(name, len(list(target.iterdir())), record.target, record.line, segment))
    with atomic_write(path, "w") as file:
        file.write(format_list(written, "video" if options.form == "videos" else "frames"))


def _size(path: str | Path) -> int:
    """Return the bytes of a file, or of the files in a folder."""
    path = Path(path)
    return sum(entry.stat().st_size for entry in path.iterdir()) if path.is_dir() else path.stat().st_size


if __name__ == "__main__":
    raise SystemExit(main())
