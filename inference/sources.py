"""Sources of videos to predict: files, images, frame folders, lists, and frames in memory."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from datasets.annotations import VIDEO_SUFFIXES, VideoRecord, is_image_path
from datasets.folder_walk import walk_folders
from datasets.frame_names import describe_gap, frame_numbers
from datasets.readers import FrameFolder, FrameReader, ImageFile, UnreadableVideoError, VideoFile
from datasets.segments import Segment
from datasets.windows import cut_records
from inference.defaults import LIST_SUFFIXES
from inference.list_rows import read_rows

_logger = logging.getLogger(__name__)


class FramesInMemory:
    """A decoded video in memory, uint8 (N, H, W, 3) RGB, as a reader."""

    def __init__(self, frames: np.ndarray | torch.Tensor):
        """Keep the frames.

        Raises:
            ValueError: they are not uint8 (N, H, W, 3) with N > 0.
        """
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
            raise ValueError(f"frames of a video must be uint8 (N, H, W, 3), not {frames.dtype} {frames.shape}")
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return the frames at indices (T,) as uint8 (T, H, W, 3)."""
        return self.frames[np.asarray(indices)]


def opener_of(path: str, filename_tmpl: str, reader: str) -> Callable[[], FrameReader]:
    """Return a picklable function that opens a video, an image or a folder of frames.

    The function raises `UnreadableVideoError` if the path does not exist or cannot be read.

    Args:
        path: of the video, image or folder.
        filename_tmpl: file names of the frames in a folder; their numbers may start anywhere.
        reader: decoder of videos, one of `datasets.readers.DECODERS`.

    Raises:
        UnreadableVideoError: a folder has no such frames, has gaps or cannot be read.
    """
    if os.path.isdir(path):
        try:
            numbers = frame_numbers(os.listdir(path), filename_tmpl)
            gap = describe_gap(path, filename_tmpl)
        except OSError as error:
            raise UnreadableVideoError(path, f"the folder cannot be read: {error.strerror}") from error
        if gap or not numbers:
            raise UnreadableVideoError(path, gap or f"the folder has no frames named {filename_tmpl}")
        return partial(FrameFolder, path, len(numbers), filename_tmpl, numbers[0])
    return partial(ImageFile, path) if is_image_path(path) else partial(VideoFile, path, reader)


def windows_of(path: str, window: float, stride: float) -> list[Segment | None]:
    """Cut a video into windows in seconds, as the test does; [None] for the whole of what is not cut.

    Args:
        path: of a video, an image or a folder of frames.
        window: length of a window; 0 for whole videos.
        stride: seconds between the starts of windows.
    """
    if not window or os.path.isdir(path) or is_image_path(path):
        return [None]
    return [record.segment for record in cut_records([VideoRecord(path, 0, 1)], window, stride)]


def expand_sources(
    given: Iterable[str], *, filename_tmpl: str = "img_{:05}.jpg", images: bool = False, data_root: str = ""
) -> list[str]:
    """Return the videos named by files, folders and lists, in order and without repetitions.

    A folder is replaced by the videos in it and its subfolders, sorted, and by each folder of frames. Links to folders
    are followed, except to folders that were already visited or that contain the given one. A list is a .csv or .txt
    file with one path per line, or a training list, whose labels are ignored.

    Args:
        given: files, folders and lists.
        filename_tmpl: file names of the frames in a folder.
        images: include image files in folders, for an image model.
        data_root: folder that paths in lists are relative to.

    Raises:
        FileNotFoundError: a list does not exist, or a folder contains nothing to read. (A missing file is reported
            when it is opened, like one that cannot be decoded.)
        ListFileError: a list has invalid lines.
    """
    found: dict[str, None] = {}
    for name in given:
        if os.path.isdir(name):
            inside = _in_folder(Path(name), filename_tmpl, images)
            if not inside:
                raise FileNotFoundError(f"{name} contains no video, and no folder of frames named {filename_tmpl}")
        elif name.lower().endswith(LIST_SUFFIXES):
            rows = read_rows(Path(name), data_root)
            if any(row.is_segment for row in rows):
                _logger.warning(
                    "%s is a list of segments, but its videos are read as wholes; run_class_finetuning.py --eval "
                    "tests segments",
                    name,
                )
            inside = [row.path for row in rows]
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
