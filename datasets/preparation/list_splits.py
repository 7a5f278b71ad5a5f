"""The lists to write, and splits for a data set that has no validation or test split of its own."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from datasets.annotations import Kind
from datasets.labels import Target, task_of
from datasets.preparation.list_sources import Source
from datasets.preparation.media_index import Found
from datasets.segments import Segment


class Clip(NamedTuple):
    """A clip for a list: its file, its label, and the stretch of the file; None for all of it."""

    found: Found
    label: Target
    segment: Segment | None = None


@dataclass
class Lists:
    """The lists to write.

    Attributes:
        source: content of the annotation files.
        kind: kind of the lists.
        splits: the clips of each split that exist.
        missing: a line for each clip that does not exist.
        frame_flags: flags for the names of the frames, if they are not the default.
        passed_over: a line for each file or folder that is not a clip.
    """

    source: Source
    kind: Kind
    splits: dict[str, list[Clip]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    frame_flags: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)


def split_off(clips: Sequence[Clip], share: float, seed: int, group_by: str = "") -> tuple[list[Clip], list[Clip]]:
    """Move about `share` of each class's clips to a new split, whole groups at a time.

    Each class, or set of classes, with more than one group contributes at least one; clips with numbers are split as
    one class. The result depends on the seed, not on the order.

    Args:
        clips: to split.
        share: fraction of the clips to move.
        seed: random seed.
        group_by: regular expression; clips whose paths have the same last group of the match belong together. A path
            that does not match is a group of its own, with all segments of the file.

    Returns:
        the remaining clips; the moved clips.
    """
    groups: dict[Target, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
    names = {}
    for clip in sorted(clips, key=lambda clip: clip.found.path):
        path = clip.found.path
        match = re.search(group_by, path) if group_by else None
        names[path] = match[match.lastindex or 0] if match else path
        stratum = 0 if task_of(clip.label) == "regression" else clip.label
        groups[stratum][names[path]].append(clip)
    taken: set[str] = set()
    for place, (label, members) in enumerate(groups.items()):
        wanted = share * sum(map(len, members.values()))
        # Groups that another class has moved count, since all clips of a group move together.
        count = sum(len(group) for name, group in members.items() if name in taken)
        left = [name for name in members if name not in taken]
        for i in np.random.default_rng((seed, label if isinstance(label, int) else place)).permutation(len(left))[:-1]:
            size = len(members[left[i]])
            if count and count + size / 2 > wanted:
                break
            taken.add(left[i])
            count += size
    moved = [clip for clip in clips if names[clip.found.path] in taken]
    return [clip for clip in clips if names[clip.found.path] not in taken], moved
