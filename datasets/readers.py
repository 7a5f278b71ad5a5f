"""Reading frames: a path and frame numbers in, uint8 pictures out.

Three readers with the same two members: `len(reader)` is the number of frames and `reader.read(indices)` returns the
asked frames as a uint8 numpy array (T, H, W, 3), RGB. Indices may repeat and come in any order; each frame is decoded
once. Whatever goes wrong is one exception, `UnreadableVideoError`, so that a data set can decide what to do with it.
"""

import os
from collections.abc import Sequence

import decord
import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.annotations import resolve_video_path

# Every failure is raised and told by us; FFmpeg's own lines would only repeat it for each worker and each packet.
decord.logging.set_level(decord.logging.QUIET)


class UnreadableVideoError(RuntimeError):
    """A video, frame folder or image that cannot be read: `path` and `reason`."""

    def __init__(self, path: str, reason: str):
        """Remember which file and why."""
        super().__init__(f"cannot read {path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self):
        """Pickle by both arguments: loader workers hand the exception to another process."""
        return type(self), (self.path, self.reason)


class VideoFile:
    """A video file, decoded by decord in the calling thread.

    One decoding thread: loader workers are the parallelism, and more threads than cores only wait for each other.
    """

    def __init__(self, path: str):
        """Open the file (a path without suffix is completed by the file that is there)."""
        self.path = resolve_video_path(path)
        if not os.path.isfile(self.path):
            raise UnreadableVideoError(path, "there is no such file")
        if os.path.getsize(self.path) == 0:
            raise UnreadableVideoError(path, "the file is empty")
        try:
            self._reader = decord.VideoReader(self.path, num_threads=1)
        except (RuntimeError, AssertionError, decord.DECORDError) as error:
            raise UnreadableVideoError(path, "it is not a video, or damaged") from error

    def __len__(self) -> int:
        """Give the number of frames."""
        return len(self._reader)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Decode the frames (T,) -> uint8 (T, H, W, 3); raises `UnreadableVideoError`."""
        indices = np.asarray(indices)
        decoded = np.unique(indices)
        # Frames between the wanted ones have to be decoded too, whereas decord, asked for frames apart, seeks again at
        # every key frame: a dense enough stretch is faster read through.
        stretch = decoded[-1] - decoded[0] + 1
        if stretch <= 2 * len(decoded):
            decoded = np.arange(decoded[0], decoded[0] + stretch)
        try:
            frames = self._decode(decoded)
        except (RuntimeError, IndexError, decord.DECORDError) as error:
            raise UnreadableVideoError(self.path, f"frames do not decode ({_one_line(error)})") from error
        return frames if np.array_equal(decoded, indices) else frames[np.searchsorted(decoded, indices)]

    def _decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode sorted frames, around a fault of decord's with narrow pictures.

        It takes the bytes of a row, padded to a multiple of 64, divided by the width for the number of channels, and
        so for widths such as 32, 48, 72 or 96 finds more than 3 and cannot copy them into a batch. The bytes of single
        frames are right: rows that end in padding.
        """
        try:
            return self._reader.get_batch(indices).asnumpy()
        except decord.DECORDError:
            first = self._reader[int(indices[0])].asnumpy()
            height, width, channels = first.shape
            if channels == 3:
                raise
            frames = [first, *(self._reader[int(i)].asnumpy() for i in indices[1:])]
        rows = np.stack(frames).reshape(len(frames), height, width * channels)
        return rows[:, :, : 3 * width].reshape(len(frames), height, width, 3)


class FrameFolder:
    """A folder of frames as images, numbered from 1 in their names."""

    def __init__(self, path: str, total_frames: int, filename_tmpl: str = "img_{:05}.jpg"):
        """Name the folder; nothing is opened before `read`."""
        self.path = path
        self.total_frames = total_frames
        self.filename_tmpl = filename_tmpl

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
        name = self.filename_tmpl.format(index + 1)
        path = os.path.join(self.path, name)
        if not os.path.isfile(path):
            if not os.path.isdir(self.path):
                raise UnreadableVideoError(self.path, "there is no such folder")
            raise UnreadableVideoError(
                self.path,
                f"frame {name} is missing (the list says {self.total_frames} frames, names {self.filename_tmpl}; "
                "--filename_tmpl sets other names)",
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
        raise UnreadableVideoError(told_path, f"{name} is not an image, or damaged ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    """Shorten a decoder's message, often a stack trace, to its last line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[-160:] if lines else type(error).__name__
