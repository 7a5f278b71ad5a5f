"""Write videos once so that they are cheap to read at random ever after.

    python -m tools.prepare_videos lists/*.csv --data_root /data/videos --output /data/videos_256
    python -m tools.prepare_videos lists/*.csv --data_root /data/videos --output /data/frames_256 --form frames

Videos become H.264 with a short side of 256 and a key frame every 4 frames, or folders of JPEGs. OUTPUT then holds
them under their old names, each list under its own, and labels.txt; train with --data_path OUTPUT --data_root OUTPUT.
Frame numbers stay what they were. What happens to the pictures is told in docs/data.md.

A video that cannot be read is named and left out of the lists, and the exit status is 1. Stopped and started again, it
goes on where it was.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
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
    ListFileError,
    Record,
    VideoRecord,
    format_list,
    read_list,
    resolve_video_path,
)
from datasets.label_names import LabelNamesError, copy_label_names
from datasets.preparation.reencode import Preparation, VideoJob, prepare_video
from datasets.preparation.worker_pool import run_jobs

SETTINGS = "prepared.json"
# Raised when the same settings write other frames: 2 since frames are numbered as they are shown. A folder without a
# version is of 1.
VERSION = 2


class PreparationError(ValueError):
    """The lists or folders do not serve; the message says which and why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 1 where a video could not be prepared."""
    escape_output()
    options = parse_arguments(arguments)
    how = from_flags(Preparation, options)
    try:
        lists = {path: _read_videos(path, options) for path in options.lists}
        targets = _name_targets([record for records in lists.values() for record in records], options)
        since = _settle_folder(options.output, how, options.lists)
        copy_label_names(options.lists, options.output)
    except (LabelNamesError, ListFileError, PreparationError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    failures = _prepare(targets, how, options, since)
    for path, records in lists.items():
        done = [record for record in records if record.path not in failures]
        _write_list(options.output / path.name, done, targets, options)
        print(f"{options.output / path.name}: {len(done)} of {len(records)} videos")
    for path, reason in failures.items():
        print(f"not prepared: {path}: {reason}")
    done = targets.keys() - failures.keys()
    before, after = sum(_size(resolve_video_path(path)) for path in done), sum(_size(targets[path]) for path in done)
    print(f"{len(done)} videos: {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB now")
    return 1 if failures else 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", type=Path, nargs="+", metavar="LIST", help="lists of videos")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--data_root", default="", metavar="DIR", help="folder that the lists' paths start from")
    parser.add_argument("--split", default="", metavar="SEP", help="separator of the columns (default: recognised)")
    add_options(parser, Preparation)
    parser.add_argument(
        "--workers", type=non_negative_int, default=0, help="processes (default: one for each processor)"
    )
    parser.add_argument(
        "--time_limit", type=positive, default=1800.0, metavar="SECONDS", help="for one video (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def _read_videos(path: Path, options: argparse.Namespace) -> list[VideoRecord]:
    records, kind = read_list(path, data_root=options.data_root, split=options.split)
    if kind != "video":
        raise PreparationError(f"{path} is a list of kind {kind}, and only videos are prepared")
    return records


def _name_targets(records: Sequence[Record], options: argparse.Namespace) -> dict[str, Path]:
    """Where each video goes, under its path from --data_root; two never become one, and no source is replaced."""
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
        if target.exists() and os.path.samefile(resolve_video_path(path), target):
            raise PreparationError(f"{path} would be replaced by itself; --output must be another folder")
        targets[path], sources[target] = target, path
    return targets


def _settle_folder(output: Path, how: Preparation, lists: Sequence[Path]) -> int:
    """Note the settings in the folder, or compare them; raises where it holds anything else.

    Returns:
        the time, in ns since 1970, before which nothing in the folder counts: when the renewal of an older version's
        files began, else 0. It is kept in the folder, so that a renewal that was stopped goes on where it was.
    """
    names = [path.name for path in lists]
    if len(set(names)) < len(names):
        raise PreparationError(f"two of the lists have one name: {', '.join(map(str, lists))}")
    settings = output / SETTINGS
    wanted = asdict(how)
    if settings.is_file():
        found = json.loads(settings.read_text())
        version, since = found.pop("version", 1), found.pop("since", 0)
        if found != wanted:
            raise PreparationError(f"{output} was prepared with {found}, not {wanted}; name another folder")
        if version > VERSION:
            raise PreparationError(f"{output} was prepared by a later version of this tool; name another folder")
        if version < VERSION:
            print(
                f"{output} was prepared by an earlier version, which may have numbered frames wrongly: all is redone"
            )
            since = time.time_ns()
            write_json(settings, wanted | {"version": VERSION, "since": since})
        return since
    if output.is_dir() and any(output.iterdir()):
        raise PreparationError(f"{output} holds other files, and no {SETTINGS} of an earlier run; name another folder")
    write_json(settings, wanted | {"version": VERSION})
    return 0


def _prepare(targets: dict[str, Path], how: Preparation, options: argparse.Namespace, since: int) -> dict[str, str]:
    """Prepare what is not there yet, and give the reason for each video that could not be."""
    jobs = [VideoJob(path, target, how) for path, target in targets.items() if not _is_done(path, target, since)]
    if len(jobs) < len(targets):
        print(f"{len(targets) - len(jobs)} of {len(targets)} are there already")
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
    """Whether the target is there and no older than its source, nor than `since` (ns)."""
    try:
        return target.stat().st_mtime_ns >= max(since, os.stat(resolve_video_path(source)).st_mtime_ns)
    except OSError:
        return False


def _write_list(
    path: Path, records: Sequence[VideoRecord], targets: dict[str, Path], options: argparse.Namespace
) -> None:
    """Write a list of the prepared files, their paths relative to the folder."""
    written: list[Record] = []
    for record in records:
        target = targets[record.path]
        name = target.relative_to(options.output).as_posix()
        if options.form == "videos":
            written.append(VideoRecord(name, record.target, record.line))
        else:
            written.append(FrameFolderRecord(name, len(list(target.iterdir())), record.target, record.line))
    with atomic_write(path, "w") as file:
        file.write(format_list(written, "video" if options.form == "videos" else "frames"))


def _size(path: str | Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    path = Path(path)
    return sum(entry.stat().st_size for entry in path.iterdir()) if path.is_dir() else path.stat().st_size


if __name__ == "__main__":
    raise SystemExit(main())
