"""What can be predicted on: paths of videos, images, frame folders and lists; frames in memory; clips."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from datasets.annotations import VIDEO_SUFFIXES, is_image_path, read_list
from datasets.folder_walk import walk_folders
from datasets.frame_names import describe_gap, frame_numbers
from datasets.readers import FrameFolder, FrameReader, ImageFile, UnreadableVideoError, VideoFile

LIST_SUFFIXES = (".csv", ".txt")


class FramesInMemory:
    """A decoded video, uint8 (N, H, W, 3) RGB, with a reader's members."""

    def __init__(self, frames: np.ndarray | torch.Tensor):
        """Keep the frames.

        Raises:
            ValueError: they are no uint8 (N, H, W, 3) with N > 0.
        """
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
            raise ValueError(f"frames of a video are uint8 (N, H, W, 3), not {frames.dtype} {frames.shape}")
        self.frames = frames

    def __len__(self) -> int:
        """Give the number of frames."""
        return len(self.frames)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Give the frames (T,) -> uint8 (T, H, W, 3)."""
        return self.frames[np.asarray(indices)]


def opener_of(path: str, filename_tmpl: str, reader: str) -> Callable[[], FrameReader]:
    """What opens a video, an image or a folder of frames named `filename_tmpl` with numbers from any first one on.

    It can be pickled, and raises `UnreadableVideoError` where the path is not there, or not readable.

    Args:
        reader: what decodes videos, one of `datasets.readers.DECODERS`.

    Raises:
        UnreadableVideoError: a folder has no such frames, lacks some of them or may not be read.
    """
    if os.path.isdir(path):
        try:
            numbers = frame_numbers(os.listdir(path), filename_tmpl)
            gap = describe_gap(path, filename_tmpl)
        except OSError as error:
            raise UnreadableVideoError(path, f"the folder cannot be read: {error.strerror}") from error
        if gap or not numbers:
            raise UnreadableVideoError(path, gap or f"the folder has no frames of the name {filename_tmpl}")
        return partial(FrameFolder, path, len(numbers), filename_tmpl, numbers[0])
    return partial(ImageFile, path) if is_image_path(path) else partial(VideoFile, path, reader)


def expand_sources(
    given: Iterable[str], *, filename_tmpl: str = "img_{:05}.jpg", images: bool = False, data_root: str = ""
) -> list[str]:
    """The videos that files, folders and lists name, in their order, each once.

    A folder stands for the videos in it and below it, sorted, and for each folder of frames there. Links to folders
    are followed, but not round in circles: a folder that was met before, or lies around the given one, is left out. A
    list is a .csv or .txt file with a path a line, or with the lines of training lists, whose labels are ignored.

    Args:
        filename_tmpl: names of the frames in a folder.
        images: image files in folders are sources too (for an image model).
        data_root: joined in front of the paths in lists.

    Raises:
        FileNotFoundError: a list is not there, or a folder holds nothing to read. (A file that is not there is told
            when it is opened, with those that cannot be decoded.)
        ListFileError: a list has faulty lines.
    """
    found: dict[str, None] = {}
    for name in given:
        if os.path.isdir(name):
            inside = _in_folder(Path(name), filename_tmpl, images)
            if not inside:
                raise FileNotFoundError(f"{name} holds no video, and no folder of frames named {filename_tmpl}")
        elif name.lower().endswith(LIST_SUFFIXES):
            inside = _in_list(Path(name), data_root)
        else:
            inside = [name]
        found |= dict.fromkeys(inside)
    return list(found)


def _in_folder(folder: Path, filename_tmpl: str, images: bool) -> list[str]:
    sources = []
    for parent, files in walk_folders(folder, passed_over=[]):
        if not images and frame_numbers(files, filename_tmpl):
            sources.append(parent)
        wanted = [name for name in files if name.lower().endswith(VIDEO_SUFFIXES) or (images and is_image_path(name))]
        sources += [os.path.join(parent, name) for name in wanted]
    return sources


def _in_list(file: Path, data_root: str) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f"list file {file} is not there")
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if lines and all(line.lower().endswith(VIDEO_SUFFIXES) or is_image_path(line) for line in lines):
        return [os.path.join(data_root, line) for line in lines]
    return [record.path for record in read_list(file, data_root=data_root)[0]]
