"""How frames are named: a template such as `img_{:05}.jpg` and the number of the first.

Published frames count from 1, many scripts and some data sets from 0. The list maker, the data sets and inference all
ask here, so that they agree.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, islice, pairwise
from typing import NamedTuple

from datasets.annotations import FrameFolderRecord, is_image_path, is_single_image
from datasets.list_lines import evenly_spread

FOLDERS_LOOKED_AT = 32
NAMES_TOLD = 3


class FrameNamesError(ValueError):
    """Frames that are named otherwise than the run was told; the message names folder and remedy."""


class FrameRun(NamedTuple):
    """The numbers of the frames of one template in a folder: lowest, highest, and how many there are."""

    first: int
    last: int
    count: int

    @property
    def is_whole(self) -> bool:
        """Whether no number between the lowest and the highest is missing."""
        return self.last - self.first + 1 == self.count


def group_frames(names: Collection[str]) -> dict[str, FrameRun]:
    """Sort the names of pictures by template: the last number of a name counts, the rest of it is the template.

    A name without a number is a template by itself, with the number 1.
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
            # 10000 may be of 00001, 00002, ... or of 1, 2, ...
            width = max((width for width in widths if width <= len(digits)), default=0)
            numbers[f"{before}{{{f':0{width}' if width else ''}}}{after}"].append(int(digits))
    return {template: FrameRun(min(found), max(found), len(found)) for template, found in numbers.items()}


def main_template(folders: Collection[Mapping[str, FrameRun]]) -> str:
    """Choose the template of the frames that most folders have, from their `group_frames`; one of flow goes last."""
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
    """Pick the numbers, ascending, whose file name by `template` is among `names`."""
    before, number, after = _parts(template)
    if not number:
        return [1] if template.format(1) in names else []
    before, after = before.format(), after.format()
    there = set(names)
    middles = [name[len(before) : len(name) - len(after)] for name in there if name.startswith(before)]
    numbers = {int(middle) for middle in middles if re.fullmatch(r"[0-9]+", middle)}
    return sorted(number for number in numbers if template.format(number) in there)


def describe_gap(folder: str | os.PathLike, template: str) -> str:
    """Name frames that are missing between the first and the last of a folder; empty where none is."""
    numbers = frame_numbers(os.listdir(folder), template)
    count = numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0
    if not count:
        return ""
    # one by one: where frames are named by time stamps, there are more missing numbers than memory
    gaps = chain.from_iterable(range(before + 1, after) for before, after in pairwise(numbers))
    missing = list(islice(gaps, NAMES_TOLD))
    told = ", ".join(template.format(number) for number in missing)
    more = f" and {count - len(missing)} more" if count > len(missing) else ""
    ends = f"{template.format(numbers[0])} and {template.format(numbers[-1])}"
    return f"{told}{more} missing between {ends}"


def find_first_frame(records: Sequence[FrameFolderRecord], template: str, list_file: str | os.PathLike) -> int:
    """Find the number of the first frame by looking at some folders of a list.

    Folders that have exactly the frames of the list decide; where there is none, all that have frames.

    Raises:
        FrameNamesError: no folder has frames of that name, or some count from another number than others.
    """
    folders = [record for record in records if not is_single_image(record)]
    folders = [record for record in evenly_spread(folders, FOLDERS_LOOKED_AT) if os.path.isdir(record.path)]
    whole: dict[int, FrameFolderRecord] = {}
    others: dict[int, FrameFolderRecord] = {}
    for record in folders:
        numbers = frame_numbers(os.listdir(record.path), template)
        if numbers:
            is_whole = len(numbers) == numbers[-1] - numbers[0] + 1 == record.total_frames
            (whole if is_whole else others).setdefault(numbers[0], record)
    firsts = whole or others
    if len(firsts) > 1:
        told = ", ".join(f"from {first} in {record.path} (line {record.line})" for first, record in firsts.items())
        raise FrameNamesError(
            f"{list_file}: frames count {told}; rename them to count alike, or give the number for all with "
            "--first_frame N, and folders without that frame are unreadable"
        )
    if folders and not firsts:
        raise FrameNamesError(f"{list_file}, line {folders[0].line}: {_other_names(folders[0].path, template)}")
    return next(iter(firsts), 1)


def _other_names(folder: str, template: str) -> str:
    pictures = list(filter(is_image_path, os.listdir(folder)))
    if not pictures:
        return f"{folder} holds no pictures"
    there = main_template([group_frames(pictures)])
    return f"{folder} has no frames named {template}; it has {there}, give that as --filename_tmpl"


def _parts(template: str) -> tuple[str, str, str]:
    """What stands before the number, the number's field and what stands after; the field is "" where there is none."""
    match = re.search(r"(?<!\{)\{[^{}]*\}(?!\})", template)
    return (template[: match.start()], match[0], template[match.end() :]) if match else (template, "", "")


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
