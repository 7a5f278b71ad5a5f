"""Frames by time: whole movies read by their time stamps, and folders of frames cut at a constant rate."""

import os
from collections.abc import Iterator, Sequence
from functools import cache

import av
import numpy as np

from datasets.annotations import is_image_path
from datasets.frame_names import FrameRun, frame_numbers, group_frames, main_template
from datasets.readers.containers import Converter, open_video
from datasets.readers.errors import UnreadableVideoError, type_and_text
from datasets.readers.images import FrameFolder, refuse_huge
from datasets.readers.videos import VideoFile

TRIED_BEFORE = (0.0, 10.0)
"""Seconds before the wanted time to which seeking is tried; where it leads beyond, decoding begins at the start."""
UNTIMED_CONTAINERS = ("avi",)
"""Containers whose time stamps are not those of the pictures, which they hold at a constant rate."""
LONGEST_GAP = 1.0
"""Seconds that a wanted time may be before the first frame or after the last."""


class TimedVideo:
    """A movie as if it had `fps` frames a second: frame i is the one nearest to i / fps seconds after its start.

    The time is that of the frames' time stamps, so neither a variable rate nor lost frames shift it. Decoding begins
    at the key frame before the wanted time; the rest of the movie is not read.
    """

    def __init__(self, path: str, fps: float):
        """Open the file; raises `UnreadableVideoError`."""
        self.path, self._fps = path, fps
        if not os.path.isfile(path):
            raise UnreadableVideoError(path, "there is no such file")
        try:
            self._open()
        except Exception as error:
            raise UnreadableVideoError(path, f"it is not a video, or damaged ({type_and_text(error)})") from error
        self._steady = VideoFile(path) if self._container.format.name in UNTIMED_CONTAINERS else None
        if not self._duration:
            raise UnreadableVideoError(path, "it does not tell its duration; remux it: ffmpeg -i IN -c copy OUT.mkv")

    def _open(self) -> None:
        self._container, self._stream = open_video(self.path)
        # Of all streams, as players and FFmpeg's -ss count seconds.
        self._start = (self._container.start_time or 0) / av.time_base
        self._duration = (self._container.duration or 0) / av.time_base

    def __len__(self) -> int:
        return max(1, round(self._duration * self._fps))

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode the frames (T,) -> uint8 (T, H, W, 3); raises `UnreadableVideoError`."""
        unique, places = np.unique(np.asarray(indices), return_inverse=True)
        times = unique / self._fps
        if self._steady is not None and self._steady.rate is not None:
            numbers = np.rint(times * float(self._steady.rate)).astype(np.int64)
            return self._steady.read(np.minimum(numbers, len(self._steady) - 1))[places]
        try:
            for earlier in TRIED_BEFORE:
                if times[0] > earlier and (pictures := self._nearest(times, self._decode(times[0] - earlier))):
                    return np.stack(pictures)[places]
            self._open()
            return np.stack(self._nearest(times, self._decode(None), from_start=True))[places]
        except av.FFmpegError as error:
            raise UnreadableVideoError(self.path, f"frames do not decode ({type_and_text(error)})") from error

    def _decode(self, start: float | None) -> Iterator[tuple[float, av.VideoFrame]]:
        """Decode from the key frame before `start`, in seconds, or from where the file is; gives frames with times."""
        if start is not None:
            try:
                self._container.seek(round((start + self._start) * av.time_base))
            except (av.FFmpegError, OSError):
                return  # a file without an index, which decoding from the start does not need
        for frame in self._container.decode(self._stream):
            if frame.time is None:
                raise UnreadableVideoError(
                    self.path, "its frames have no time stamps; convert it: ffmpeg -i IN -fps_mode cfr OUT.mp4"
                )
            yield frame.time - self._start, frame

    def _nearest(
        self, times: np.ndarray, frames: Iterator[tuple[float, av.VideoFrame]], *, from_start: bool = False
    ) -> list[np.ndarray]:
        """Pick the picture nearest to each of some ascending times.

        Returns:
            pictures (H, W, 3) uint8; none where decoding began too late.
        """
        first = next(frames, None)
        if not from_start and (first is None or first[0] > times[0]):
            return []
        if first is None or first[0] > times[0] + LONGEST_GAP:
            raise self._no_frame(times[0])
        before, frame = first
        convert = Converter(frame)
        pictures: list[np.ndarray] = []
        for time, following in frames:
            if time <= before:
                continue
            nearer = int(np.count_nonzero(times <= (before + time) / 2))
            if nearer > len(pictures):
                self._add(pictures, convert(frame), nearer, len(times))
            if len(pictures) == len(times):
                return pictures
            before, frame = time, following
        if times[-1] > before + LONGEST_GAP:
            raise self._no_frame(times[-1])
        self._add(pictures, convert(frame), len(times), len(times))
        return pictures

    def _add(self, pictures: list[np.ndarray], picture: np.ndarray, up_to: int, total: int) -> None:
        """Append a picture until there are `up_to` of `total`."""
        refuse_huge(self.path, picture, total)
        pictures += [picture.copy()] * (up_to - len(pictures))

    def _no_frame(self, time: float) -> UnreadableVideoError:
        return UnreadableVideoError(
            self.path, f"there is no frame within {LONGEST_GAP:g} s of {time:g} s after its start; is it cut short?"
        )


@cache
def open_frame_folder(path: str, filename_tmpl: str | None) -> FrameFolder:
    """Look at a folder's names, once in a process, and make it a reader from its lowest number on.

    Args:
        path: the folder.
        filename_tmpl: names of the frames; None: those of most pictures in the folder.

    Raises:
        UnreadableVideoError: there is no such folder, or it has no frames of that name.
    """
    template, run = find_frames(path, filename_tmpl)
    return FrameFolder(path, run.last - run.first + 1, template, run.first)


def find_frames(path: str, filename_tmpl: str | None) -> tuple[str, FrameRun]:
    """Find the template and the numbers of a folder's frames; arguments and errors as in `open_frame_folder`."""
    try:
        names = os.listdir(path)
    except OSError as error:
        raise UnreadableVideoError(path, f"it is no folder that can be read ({error.strerror})") from error
    if filename_tmpl:
        numbers = frame_numbers(names, filename_tmpl)
        if numbers:
            return filename_tmpl, FrameRun(numbers[0], numbers[-1], len(numbers))
    pictures = [name for name in names if is_image_path(name)]
    if not pictures:
        raise UnreadableVideoError(path, "it holds no pictures")
    runs = group_frames(pictures)
    template = main_template([runs])
    if filename_tmpl:
        raise UnreadableVideoError(path, f"it has no frames named {filename_tmpl}; --filename_tmpl {template} fits")
    return template, runs[template]
