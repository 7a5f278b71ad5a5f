"""Readers of image files: a folder of frames or a single image."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from datasets.readers.errors import UnreadableVideoError, type_and_text

MOST_BYTES = 8 << 30
"""Maximum size of the frames of one read; 64 frames of 7680 x 4320 pixels are 6.4 GB."""


@dataclass(frozen=True)
class FrameFolder:
    """A folder of numbered frames; nothing is opened before `read`."""

    path: str
    total_frames: int
    """Number of frames in the list."""
    filename_tmpl: str = "img_{:05}.jpg"
    first_frame: int = 1

    def __len__(self) -> int:
        return self.total_frames

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode frames (T,), 0-based -> uint8 (T, H, W, 3); raise `UnreadableVideoError` if that fails."""
        unique, places = np.unique(np.asarray(indices), return_inverse=True)
        frames = []
        for index in unique:
            frames.append(self._frame(int(index)))
            refuse_huge(self.path, frames[-1], len(places))
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
                f"frame {name} is missing (expected {self.total_frames} frames named {self.filename_tmpl} from "
                f"{self.first_frame} on; see --filename_tmpl and --first_frame)",
            )
        return _read_image(path, self.path)


@dataclass(frozen=True)
class ImageFile:
    """A single image, read as a video of one frame; nothing is opened before `read`."""

    path: str

    def __len__(self) -> int:
        return 1

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode the image, repeated for each index -> uint8 (T, H, W, 3), or raise `UnreadableVideoError`."""
        if not os.path.isfile(self.path):
            raise UnreadableVideoError(self.path, "there is no such file")
        frame = _read_image(self.path, self.path)[None]
        refuse_huge(self.path, frame, len(indices))
        return frame if len(indices) == 1 else frame.repeat(len(indices), axis=0)


def refuse_huge(path: str, frame: np.ndarray, count: int) -> None:
    """Raise `UnreadableVideoError` if `count` such frames take more than `MOST_BYTES`."""
    if frame.nbytes * count > MOST_BYTES:
        raise UnreadableVideoError(path, f"{count} frames of {frame.nbytes / 1e6:.0f} MB would need too much memory")


def _read_image(path: str, reported_path: str) -> np.ndarray:
    """Decode an image file of any mode to RGB (H, W, 3), upright according to its EXIF tag."""
    try:
        with Image.open(path) as image:
            # Ignore invalid tags; errors of the image itself are reported below.
            with contextlib.suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    # PIL may raise anything for damaged files of rare formats.
    except Exception as error:
        name = os.path.basename(path)
        reason = f"{name} is not an image, or damaged ({type_and_text(error)})"
        raise UnreadableVideoError(reported_path, reason) from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Convert to RGB (H, W, 3) uint8, keeping the upper 8 of 16 bits (PIL does so for RGB but clamps grey to 255)."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))
