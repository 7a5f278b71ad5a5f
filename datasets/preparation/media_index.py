"""Index of the videos or frame folders below a root folder."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datasets.annotations import VIDEO_SUFFIXES, is_image_path
from datasets.folder_walk import walk_folders
from datasets.frame_names import FrameRun, describe_gap, group_frames, main_template

MAX_LISTED = 10


class SourceError(ValueError):
    """The files of a data set cannot be used; the message names the file, the line and the remedy."""


@dataclass(frozen=True, slots=True)
class Found:
    """A video, image or frame folder.

    Attributes:
        path: Path relative to the root.
        total_frames: Number of frames; 0 for a video.
        fault: Why the frames of a folder cannot be read like those of the other folders; "" if they can.
    """

    path: str
    total_frames: int = 0
    fault: str = ""


class MediaIndex:
    """All videos below a folder or, if there are none, all folders of frames; can be searched by name.

    Args:
        root: The folder.

    Attributes:
        root: The folder.
        kind: "video" or "frames".
        found: All of them, sorted by path.
        filename_tmpl: Most common template of frame names; "" for videos.
        first_frame: Most common number of the first frame.
        passed_over: A line for each file or folder that is skipped.

    Raises:
        SourceError: There are neither videos nor frames.
    """

    def __init__(self, root: Path):
        if not root.is_dir():
            raise SourceError(f"{root} is not a folder; it should contain the videos")
        self.root = root
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
            raise SourceError(f"{root} contains neither videos ({', '.join(VIDEO_SUFFIXES)}) nor folders of frames")
        if others:
            self.passed_over.append(f"{others.total()} files that are neither videos nor images: {tally(others)}")
        if videos and folders:
            self.passed_over.append(f"{len(folders)} folders with images, such as {min(folders)}, as there are videos")
        self.kind = "video" if videos else "frames"
        found = videos or self._frame_folders(root, folders)
        self.found = sorted(found, key=lambda found: found.path)
        self._by_path = {found.path: found for found in self.found}
        self._by_name: dict[str, list[Found]] = defaultdict(list)
        for found in self.found:
            for name in self._names(found):
                self._by_name[name].append(found)

    def find(self, names: Sequence[str]) -> tuple[Found | None, str]:
        """Find the first of `names` that exists; return None and the reason if there is none or several."""
        for name in names:
            found = [self._by_path[name]] if name in self._by_path else self._by_name.get(name, [])
            if len(found) == 1:
                return (None, found[0].fault) if found[0].fault else (found[0], "")
            if found:
                return None, f"{len(found)} files have that name: {found[0].path}, {found[1].path}"
        return None, "there is no such file"

    def _names(self, found: Found) -> set[str]:
        """Return the names of an entry: path, folder/name and name, each with and without suffix."""
        path = PurePosixPath(found.path)
        bare = path.with_suffix("") if self.kind == "video" else path
        return {name for p in (path, bare) for name in (str(p), "/".join(p.parts[-2:]), p.name)}

    def _frame_folders(self, root: Path, folders: dict[str, dict[str, FrameRun]]) -> list[Found]:
        """Determine the most common template and first number, and mark the folders that differ."""
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
                    Found(path, groups[own].count, f"its frames are named {own}, those of most folders {template}")
                )
        if strays:
            self.passed_over.append(f"{strays.total()} images not named {template}: {tally(strays)}")
        return found

    def _fault(self, folder: Path, run: FrameRun) -> str:
        if not run.is_whole:
            return describe_gap(folder, self.filename_tmpl)
        if run.first != self.first_frame:
            return f"its frames start at {run.first}, those of most folders at {self.first_frame}"
        return ""


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case, or "no suffix"."""
    return os.path.splitext(name)[1].lower() or "no suffix"


def tally(counts: Counter[str]) -> str:
    """List the most frequent entries with their counts."""
    listed = ", ".join(f"{name} ({count})" for name, count in counts.most_common(MAX_LISTED))
    return listed + (", ..." if len(counts) > MAX_LISTED else "")
