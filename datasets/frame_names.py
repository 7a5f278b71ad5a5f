"""How frames are named: a template such as `img_{:05}.jpg` and the number of the first frame.

Published frames start at 1, those of many scripts and some data sets at 0. The list maker, the datasets and inference
all use this module, so that they agree.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, islice, pairwise
from typing import NamedTuple

from datasets.annotations import FrameFolderRecord, is_image_path, is_single_image
from datasets.list_lines import evenly_spread

MAX_FOLDERS = 32
MAX_NAMES = 3


class FrameNamesError(ValueError):
    """Frames do not have the expected names; the message names the folder and the remedy."""


class FrameRun(NamedTuple):
    """Frames of one template in a folder: the lowest number, the highest number and the count."""

    first: int
    last: int
    count: int

    @property
    def is_whole(self) -> bool:
        """Whether no number between the lowest and the highest is missing."""
        return self.last - self.first + 1 == self.count


def group_frames(names: Collection[str]) -> dict[str, FrameRun]:
    """Group image names by template: the last number in a name is the frame number, the rest is the template.

    A name without a number is its own template, with the frame number 1.
    """
    digits_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    numbers: dict[str, list[int]] = defaultdict(list)
    for name in names:
        stem, suffix = os.path.splitext(name)
        match = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", stem)
        if match:
            digits_of[_literal(match[1]), _literal(match[3] + suffix)].append(match[2])
        else:
            numbers[_literal(name)].append(1)
    for (before, after), all_digits in digits_of.items():
        widths = {len(digits) for digits in all_digits if len(digits) > 1 and digits[0] == "0"}
        for digits in all_digits:
            # 10000 may belong to 00001, 00002, ... or to 1, 2, ...
            width = max((width for width in widths if width <= len(digits)), default=0)
            numbers[f"{before}{{{f':0{width}' if width else ''}}}{after}"].append(int(digits))
    return {template: FrameRun(min(found), max(found), len(found)) for template, found in numbers.items()}


def main_template(folders: Collection[Mapping[str, FrameRun]]) -> str:
    """Choose the most common template from the `group_frames` of folders; templates of optical flow rank last."""
    folders_with: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    for runs in folders:
        folders_with.update(runs.keys())
        frames.update({template: run.count for template, run in runs.items()})
    return max(
        folders_with,
        key=lambda name: ("flow" not in name, folders_with[name], frames[name], name.startswith("img_"), name),
    )


def frame_numbers(names: Collection[str], template: str) -> list[int]:
    """Return the frame numbers, ascending, whose file name by `template` is among `names`."""
    before, number, after = _parts(template)
    if not number:
        return [1] if template.format(1) in names else []
    before, after = before.format(), after.format()
    there = set(names)
    middles = [name[len(before) : len(name) - len(after)] for name in there if name.startswith(before)]
    numbers = {int(middle) for middle in middles if re.fullmatch(r"[0-9]+", middle)}
    return sorted(number for number in numbers if template.format(number) in there)


def describe_gap(folder: str | os.PathLike, template: str) -> str:
    """Name the frames missing between the first and the last of a folder; empty if none is missing."""
    numbers = frame_numbers(os.listdir(folder), template)
    count = numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0
    if not count:
        return ""
    # A generator: if frames are named by time stamps, the missing numbers may not fit in memory.
    gaps = chain.from_iterable(range(before + 1, after) for before, after in pairwise(numbers))
    missing = list(islice(gaps, MAX_NAMES))
    listed = ", ".join(template.format(number) for number in missing)
    more = f" and {count - len(missing)} more" if count > len(missing) else ""
    ends = f"{template.format(numbers[0])} and {template.format(numbers[-1])}"
    return f"{listed}{more} missing between {ends}"


def find_first_frame(records: Sequence[FrameFolderRecord], template: str, list_file: str | os.PathLike) -> int:
    """Find the number of the first frame by inspecting some folders of a list.

    Folders whose number of frames equals that in the list decide; if there are none, all folders with frames do.

    Raises:
        FrameNamesError: No folder has frames of that name, or the first number differs between folders.
    """
    places = [place for place, record in enumerate(records) if not is_single_image(record)]
    folders = [records[place] for place in evenly_spread(places, MAX_FOLDERS)]
    folders = [record for record in folders if os.path.isdir(record.path)]
    whole: dict[int, FrameFolderRecord] = {}
    others: dict[int, FrameFolderRecord] = {}
    for record in folders:
        numbers = frame_numbers(os.listdir(record.path), template)
        if numbers:
            is_whole = len(numbers) == numbers[-1] - numbers[0] + 1 == record.total_frames
            (whole if is_whole else others).setdefault(numbers[0], record)
    firsts = whole or others
    if len(firsts) > 1:
        found = ", ".join(f"at {first} in {record.path} (line {record.line})" for first, record in firsts.items())
        raise FrameNamesError(
            f"{list_file}: frames start {found}; rename them consistently, or give one number for all folders with "
            "--first_frame N; folders without that frame are then unreadable"
        )
    if folders and not firsts:
        raise FrameNamesError(f"{list_file}, line {folders[0].line}: {_other_names(folders[0].path, template)}")
    return next(iter(firsts), 1)


def _other_names(folder: str, template: str) -> str:
    pictures = list(filter(is_image_path, os.listdir(folder)))
    if not pictures:
        return f"{folder} contains no images"
    there = main_template([group_frames(pictures)])
    return f"{folder} has no frames named {template}; it has {there}; pass that as --filename_tmpl"


def _parts(template: str) -> tuple[str, str, str]:
    """Split a template into the text before the number, the number's field ("" if none) and the text after."""
    match = re.search(r"(?<!\{)\{[^{}]*\}(?!\})", template)
    return (template[: match.start()], match[0], template[match.end() :]) if match else (template, "", "")


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
