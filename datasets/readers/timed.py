"""Readers of frames by time: movies read by time stamps, and folders of frames extracted at a constant rate."""

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
"""Seconds before the requested time to seek to; if both lead beyond it, the file is decoded from the start."""
UNTIMED_CONTAINERS = ("avi",)
"""Containers of constant frame rate whose time stamps are not those of the displayed frames."""
LONGEST_GAP = 1.0
"""Seconds that a requested time may be before the first frame or after the last one."""


class TimedVideo:
    """A movie sampled at `fps` frames per second: frame i is the one nearest to i / fps seconds after its start.

    Times are those of the frames' time stamps, so neither a variable frame rate nor lost frames shift them. Decoding
    starts at the keyframe before the requested time; the rest of the movie is not read.
    """

    def __init__(self, path: str, fps: float):
        """Open the file; raise `UnreadableVideoError` if that fails."""
        self.path, self._fps = path, fps
        if not os.path.isfile(path):
            raise UnreadableVideoError(path, "there is no such file")
        try:
            self._open()
        except Exception as error:
            raise UnreadableVideoError(path, f"it is not a video, or damaged ({type_and_text(error)})") from error
        self._steady = VideoFile(path) if self._container.format.name in UNTIMED_CONTAINERS else None
        if not self._duration:
            raise UnreadableVideoError(path, "its duration is unknown; remux it: ffmpeg -i IN -c copy OUT.mkv")

    def _open(self) -> None:
        self._container, self._stream = open_video(self.path)
        # Start of all streams, from which players and FFmpeg's -ss count.
        self._start = (self._container.start_time or 0) / av.time_base
        self._duration = (self._container.duration or 0) / av.time_base

    def __len__(self) -> int:
        return max(1, round(self._duration * self._fps))

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode frames (T,) -> uint8 (T, H, W, 3); raise `UnreadableVideoError` if that fails."""
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
        """Decode from the keyframe before `start` (seconds), or from the current position; yield times and frames."""
        if start is not None:
            try:
                self._container.seek(round((start + self._start) * av.time_base))
            except (av.FFmpegError, OSError):
                return  # decoding from the start needs no index
        for frame in self._container.decode(self._stream):
            if frame.time is None:
                raise UnreadableVideoError(
                    self.path, "its frames have no time stamps; convert it: ffmpeg -i IN -fps_mode cfr OUT.mp4"
                )
            yield frame.time - self._start, frame

    def _nearest(
        self, times: np.ndarray, frames: Iterator[tuple[float, av.VideoFrame]], *, from_start: bool = False
    ) -> list[np.ndarray]:
        """Select the picture nearest to each of the ascending times.

        Returns:
            Pictures, uint8 (H, W, 3); none if decoding started after the first time.
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
        """Append a picture until there are `up_to` of `total` pictures."""
        refuse_huge(self.path, picture, total)
        pictures += [picture.copy()] * (up_to - len(pictures))

    def _no_frame(self, time: float) -> UnreadableVideoError:
        return UnreadableVideoError(
            self.path, f"there is no frame within {LONGEST_GAP:g} s of {time:g} s after its start; is it truncated?"
        )


@cache
def open_frame_folder(path: str, filename_tmpl: str | None) -> FrameFolder:
    """List a folder, once per process, and return a reader of its frames, beginning with the lowest number.

    Args:
        path: Path of the folder.
        filename_tmpl: Template of the frames' file names; None: that of most images in the folder.

    Raises:
        UnreadableVideoError: The folder does not exist, or has no such frames.
    """
    template, run = find_frames(path, filename_tmpl)
    return FrameFolder(path, run.last - run.first + 1, template, run.first)


def find_frames(path: str, filename_tmpl: str | None) -> tuple[str, FrameRun]:
    """Find the template and the numbers of the frames in a folder; see `open_frame_folder`."""
    try:
        names = os.listdir(path)
    except OSError as error:
        raise UnreadableVideoError(path, f"the folder cannot be read ({error.strerror})") from error
    if filename_tmpl:
        numbers = frame_numbers(names, filename_tmpl)
        if numbers:
            return filename_tmpl, FrameRun(numbers[0], numbers[-1], len(numbers))
    pictures = [name for name in names if is_image_path(name)]
    if not pictures:
        raise UnreadableVideoError(path, "it contains no images")
    runs = group_frames(pictures)
    template = main_template([runs])
    if filename_tmpl:
        raise UnreadableVideoError(path, f"it has no frames named {filename_tmpl}; --filename_tmpl {template} fits")
    return template, runs[template]
