"""The videos, frame folders or pictures below a folder, and what there is beside them."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datasets.annotations import VIDEO_SUFFIXES, is_image_path
from datasets.folder_walk import walk_folders
from datasets.frame_names import FrameRun, describe_gap, group_frames, main_template

MOST_TOLD = 10


class SourceError(ValueError):
    """A data set's own files cannot be used; the message names file, line and remedy."""


@dataclass(frozen=True, slots=True)
class Found:
    """A video, image or frame folder, its path relative to the root.

    `total_frames` is 0 for a video; `fault` says why a folder's frames cannot be read like those of the others.
    """

    path: str
    total_frames: int = 0
    fault: str = ""


class MediaIndex:
    """All videos below a folder, or where it has none all folders of frames, by name.

    Attributes:
        kind: "video" or "frames".
        found: all of them, in the order of their paths.
        filename_tmpl: how most folders name their frames; "" where there are none.
        first_frame: the number that most folders' frames count from.
        passed_over: a line for each thing below the folder that is not among `found`.
    """

    def __init__(self, root: Path):
        """Walk through `root`; raises `SourceError` where it has neither videos nor frames."""
        if not root.is_dir():
            raise SourceError(f"{root} is not a folder; it should hold the videos")
        self.passed_over: list[str] = []
        self.filename_tmpl, self.first_frame = "", 1
        videos: list[Found] = []
        folders: dict[str, dict[str, FrameRun]] = {}
        others: Counter[str] = Counter()
        for folder, files in walk_folders(root, self.passed_over):
            relative = Path(folder).relative_to(root)
            names = [name for name in files if name.lower().endswith(VIDEO_SUFFIXES)]
            pictures = [name for name in files if is_image_path(name)]
            videos += [Found((relative / name).as_posix()) for name in names]
            if pictures:
                folders[relative.as_posix()] = group_frames(pictures)
            others.update(suffix_of(name) for name in set(files) - {*names, *pictures})
        if not videos and not folders:
            raise SourceError(f"{root} has neither videos ({', '.join(VIDEO_SUFFIXES)}) nor folders of frames")
        if others:
            self.passed_over.append(f"{others.total()} files that are neither videos nor pictures: {tally(others)}")
        if videos and folders:
            self.passed_over.append(f"{len(folders)} folders with pictures, such as {min(folders)}: there are videos")
        self.kind = "video" if videos else "frames"
        found = videos or self._frame_folders(root, folders)
        self.found = sorted(found, key=lambda found: found.path)
        self._by_path = {found.path: found for found in self.found}
        self._by_name: dict[str, list[Found]] = defaultdict(list)
        for found in self.found:
            for name in self._names(found):
                self._by_name[name].append(found)

    def find(self, names: Sequence[str]) -> tuple[Found | None, str]:
        """The one file of the first name that there is, else None and why."""
        for name in names:
            found = [self._by_path[name]] if name in self._by_path else self._by_name.get(name, [])
            if len(found) == 1:
                return (None, found[0].fault) if found[0].fault else (found[0], "")
            if found:
                return None, f"{len(found)} files have that name: {found[0].path}, {found[1].path}"
        return None, "there is no such file"

    def _names(self, found: Found) -> set[str]:
        """Path, folder and name, and name alone, each with and without suffix."""
        path = PurePosixPath(found.path)
        bare = path.with_suffix("") if self.kind == "video" else path
        return {name for p in (path, bare) for name in (str(p), "/".join(p.parts[-2:]), p.name)}

    def _frame_folders(self, root: Path, folders: dict[str, dict[str, FrameRun]]) -> list[Found]:
        """Hold all folders to the template and the first number that most of them have."""
        template = self.filename_tmpl = main_template(folders.values())
        runs = {path: groups[template] for path, groups in folders.items() if template in groups}
        whole = [run for run in runs.values() if run.is_whole]
        self.first_frame = Counter(run.first for run in whole or runs.values()).most_common(1)[0][0]
        above = {str(parent) for path in runs for parent in PurePosixPath(path).parents}
        strays: Counter[str] = Counter()
        found = []
        for path, groups in folders.items():
            if path in runs or path in above:
                strays.update({name: run.count for name, run in groups.items() if name != template})
            if path in runs:
                found.append(Found(path, runs[path].count, self._fault(root / path, runs[path])))
            elif path not in above:
                own = main_template([groups])
                found.append(
                    Found(path, groups[own].count, f"its frames are named {own}, and those of most {template}")
                )
        if strays:
            self.passed_over.append(f"{strays.total()} pictures that are no {template}: {tally(strays)}")
        return found

    def _fault(self, folder: Path, run: FrameRun) -> str:
        if not run.is_whole:
            return describe_gap(folder, self.filename_tmpl)
        if run.first != self.first_frame:
            return f"its frames count from {run.first}, and those of most folders from {self.first_frame}"
        return ""


def suffix_of(name: str) -> str:
    """Give a name's suffix in small letters, or words where it has none."""
    return os.path.splitext(name)[1].lower() or "no suffix"


def tally(counts: Counter[str]) -> str:
    """Name what there is most of, each with its number."""
    told = ", ".join(f"{name} ({count})" for name, count in counts.most_common(MOST_TOLD))
    return told + (", ..." if len(counts) > MOST_TOLD else "")
