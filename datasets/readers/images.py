"""Frames that lie as images: a folder of them, or a single one."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.readers.errors import UnreadableVideoError, one_line


class FrameFolder:
    """A folder of frames as images, numbered in their names."""

    def __init__(self, path: str, total_frames: int, filename_tmpl: str = "img_{:05}.jpg", first_frame: int = 1):
        """Name the folder; nothing is opened before `read`."""
        self.path = path
        self.total_frames = total_frames
        self.filename_tmpl = filename_tmpl
        self.first_frame = first_frame

    def __len__(self) -> int:
        """Give the number of frames that the list says."""
        return self.total_frames

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Decode the frames (T,), 0-based -> uint8 (T, H, W, 3); raises `UnreadableVideoError`."""
        unique, places = np.unique(np.asarray(indices), return_inverse=True)
        frames = [self._frame(int(i)) for i in unique]
        sizes = {frame.shape for frame in frames}
        if len(sizes) > 1:
            raise UnreadableVideoError(self.path, f"its frames have different sizes: {sorted(sizes)}")
        return np.stack(frames)[places]

    def _frame(self, index: int) -> np.ndarray:
        name = self.filename_tmpl.format(self.first_frame + index)
        path = os.path.join(self.path, name)
        if not os.path.isfile(path):
            if not os.path.isdir(self.path):
                raise UnreadableVideoError(self.path, "there is no such folder")
            raise UnreadableVideoError(
                self.path,
                f"frame {name} is missing (the list says {self.total_frames} frames, names {self.filename_tmpl} from "
                f"{self.first_frame} on; --filename_tmpl and --first_frame set others)",
            )
        return _read_image(path, self.path)


class ImageFile:
    """A single image, a video of one frame."""

    def __init__(self, path: str):
        """Name the file; nothing is opened before `read`."""
        self.path = path

    def __len__(self) -> int:
        """Give 1."""
        return 1

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Decode the image, repeated for every index -> uint8 (T, H, W, 3); raises `UnreadableVideoError`."""
        if not os.path.isfile(self.path):
            raise UnreadableVideoError(self.path, "there is no such file")
        frame = _read_image(self.path, self.path)[None]
        return frame if len(indices) == 1 else frame.repeat(len(indices), axis=0)


def _read_image(path: str, told_path: str) -> np.ndarray:
    """Decode an image file of any mode to RGB (H, W, 3)."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    # PIL raises SyntaxError and ValueError for some damaged files, DecompressionBombError for absurd sizes
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        name = os.path.basename(path)
        raise UnreadableVideoError(told_path, f"{name} is not an image, or damaged ({one_line(error)})") from error
