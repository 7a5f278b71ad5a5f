"""The last frames of a live source, shared by the thread that decodes them and the one that predicts windows.

Symbols: W = frames per window, S = frames between the starts of windows.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import NamedTuple

import numpy as np


class Shown(NamedTuple):
    """When a frame is shown and when it arrived, in seconds on the clocks of the source and of this machine."""

    time: float
    arrival: float


@dataclass(frozen=True)
class LiveWindow:
    """The frames of a window that the model reads; a `FrameReader` whose frame 0 is the first one of the window.

    Attributes:
        start: Time of the first frame.
        end: Time at which the last frame ends.
        arrival: When the last frame arrived.
        dropped: Frames that were lost, or skipped because the model was too slow, since the window before.
        pictures: Frame -> uint8 (H, W, 3).
        frames: W.
    """

    start: float
    end: float
    arrival: float
    dropped: int
    pictures: dict[int, np.ndarray] = field(repr=False)
    frames: int

    def __len__(self) -> int:
        return self.frames

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the frames at indices (T,) as uint8 (T, H, W, 3)."""
        return np.stack([self.pictures[int(index)] for index in indices])


class FrameRing:
    """Frames that windows still need, in bounded memory.

    One thread adds frames, another takes windows that start at frame 0, S, 2 S, ... of a connection to the source.
    If more than `backlog` frames have arrived since a window was complete, its first frames are gone. The newest
    complete window is then taken instead, and the frames between their starts count as dropped.

    Args:
        window: W.
        stride: S.
        sampled: Frames of a window that the model reads, (T,); only those are kept.
        backlog: Frames that may arrive while the model is busy before any are dropped; at least S.
    """

    def __init__(self, window: int, stride: int, sampled: np.ndarray, backlog: int):
        self.window, self.stride = window, stride
        self._sampled = sorted(set(sampled.tolist()))
        self._kept = {offset % stride for offset in self._sampled}
        self._changed = Condition()
        self._shown: deque[Shown] = deque(maxlen=window + max(backlog, stride))
        self._pictures: dict[int, np.ndarray] = {}
        self._count = self._start = self._lost = 0
        self.closed = False
        self.received = self.dropped = self.windows = 0

    def add(self, shown: Shown, picture: Callable[[], np.ndarray]) -> None:
        """Add the next frame; `picture` is called if a window needs it."""
        # Only this thread changes the count, and converting a frame must not keep the other one waiting.
        kept = picture() if self._count % self.stride in self._kept else None
        with self._changed:
            if kept is not None:
                self._pictures[self._count] = kept
            self._shown.append(shown)
            self._count += 1
            self.received += 1
            self._forget_before(self._count - self._shown.maxlen)
            self._changed.notify_all()

    def lose(self) -> None:
        """Count a frame that arrived but could not be decoded."""
        with self._changed:
            self.received += 1
            self._drop(1)

    def take(self, timeout: float) -> LiveWindow | None:
        """Wait for the next window and remove it; None if there is none after `timeout` seconds, or once closed."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._complete() or self.closed, timeout) or not self._complete():
                return None
            if self._start < self._count - len(self._shown):
                newest = (self._count - self.window) // self.stride * self.stride
                self._drop(newest - self._start)
                self._start = newest
            window = self._cut()
            self._start += self.stride
            self._forget_before(self._start)
            self._changed.notify_all()
            return window

    def drain(self, timeout: float) -> bool:
        """Wait until all complete windows are taken; return False if they are not after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._complete(), timeout)

    def restart(self) -> int:
        """Begin a new connection, which shares no window with the last; return the frames that filled no window."""
        with self._changed:
            rest = self._count - (self._start - self.stride + self.window if self._start else 0)
            self._count = self._start = 0
            self._shown.clear()
            self._pictures.clear()
            return max(0, rest)

    def close(self) -> None:
        """Tell the other thread that no more frames will come."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _drop(self, frames: int) -> None:
        self._lost += frames
        self.dropped += frames

    def _complete(self) -> bool:
        return self._count >= self._start + self.window

    def _cut(self) -> LiveWindow:
        oldest = self._count - len(self._shown)
        first, last = self._shown[self._start - oldest], self._shown[self._start + self.window - 1 - oldest]
        frame = (last.time - first.time) / max(1, self.window - 1)
        self.windows += 1
        dropped, self._lost = self._lost, 0
        pictures = {offset: self._pictures[self._start + offset] for offset in self._sampled}
        return LiveWindow(first.time, last.time + frame, last.arrival, dropped, pictures, self.window)

    def _forget_before(self, number: int) -> None:
        # The keys are in ascending order.
        while self._pictures and (oldest := next(iter(self._pictures))) < number:
            del self._pictures[oldest]
