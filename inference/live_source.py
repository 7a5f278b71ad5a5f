"""Read frames of a live source: a camera, a stream, a FIFO or standard input.

A source that ends, fails or sends nothing is opened again until it comes back, with a word in the log.
"""

import logging
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event, Thread

import av
import numpy as np
from av.container import InputContainer

from datasets.readers.containers import Converter, shown_stream
from datasets.readers.errors import type_and_text
from inference.frame_ring import FrameRing, Shown

_logger = logging.getLogger(__name__)

STANDARD_INPUT = "-"
RETRY = 1.0  # seconds until a lost source is opened again
_WAKE = 0.1  # seconds after which a waiting thread looks whether it should stop
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}


class SourceError(RuntimeError):
    """A live source cannot be opened, or one that ends is damaged."""


class LiveSource(Thread):
    """A thread that decodes a source into a ring until it is stopped.

    A regular file, which serves for trials, is played at its own speed. It ends the thread when it ends, and so does
    standard input.

    Args:
        name: Number of a camera, address of a stream, path of a FIFO or file, or "-".
        ring: Receives the frames.
        timeout: Seconds without a frame after which the source is opened again.
    """

    def __init__(self, name: str, ring: FrameRing, timeout: float):
        super().__init__(daemon=True)
        self.source, self.ring, self.timeout = name, ring, timeout
        self.stopped = Event()
        self.error: SourceError | None = None
        self._began: float | None = None
        self._missed = False
        self._heard = time.monotonic()  # when the last frame came
        self._latest = 0.0
        self._convert: Converter | None = None
        self._is_file = os.path.isfile(name)
        self._ends = self._is_file or name == STANDARD_INPUT
        self._fifo: int | None = None  # its descriptor

    def run(self) -> None:
        """Read the source until it ends or `stopped` is set, then close the ring."""
        try:
            while not self.stopped.is_set():
                reason = self._read_connection()
                if self.error or self.stopped.is_set():
                    return
                while not self.ring.drain(_WAKE):
                    if self.stopped.is_set():
                        return
                rest = self.ring.restart()
                if rest:
                    reason += f" and its last {rest} frames fill no window"
                if self._ends:
                    _logger.info("%s %s", self.source, reason)
                    return
                self._miss(reason)
                self.stopped.wait(RETRY)
        finally:
            if self._fifo is not None:
                os.close(self._fifo)
            self.ring.close()

    @property
    def _silence(self) -> str:
        return f"has sent nothing for {self.timeout:g} s"

    def _miss(self, reason: str) -> None:
        """Say once per interruption that the source is missed."""
        if not self._missed:
            self._missed = True
            _logger.warning("%s %s; waiting for it to come back", self.source, reason)

    def _read_connection(self) -> str:
        """Read frames until the connection ends; return how it did, or set `error` if it will never work."""
        self._convert = None
        try:
            with self._open() as container:
                for frame in self._decode(container):
                    if self.stopped.is_set():
                        break
                    self._add(frame)
            return "ended"
        except (TimeoutError, av.ExitError):
            return self._silence
        except Exception as error:  # noqa: BLE001, damaged data can make a decoder raise anything
            if self._began is None or self._ends:
                self.error = SourceError(f"cannot read {self.source}: {type_and_text(error)}")
            return f"failed ({type_and_text(error)})"

    def _open(self) -> InputContainer:
        if self.source.isdecimal():
            if sys.platform not in _CAMERAS:
                raise OSError("cameras can be read on Linux and macOS only; send the pictures as a stream")
            style, template = _CAMERAS[sys.platform]
            return av.open(template.format(self.source), format=style, timeout=self.timeout)
        if self.source == STANDARD_INPUT or _is_fifo(self.source):
            # A pipe that is silent stays open: closing it would end its writer.
            pipe = _Pipe(
                self._descriptor(),
                begun=self.source == STANDARD_INPUT,
                timeout=self.timeout,
                stopped=self.stopped,
                silent=lambda: self._miss(self._silence),
            )
            return av.open(pipe, metadata_errors="replace")
        if self._is_file:
            return av.open(os.path.abspath(self.source), metadata_errors="replace")
        # Over UDP, lost packets would damage pictures.
        options = {"rtsp_transport": "tcp"} if self.source.startswith("rtsp://") else {}
        return av.open(self.source, options=options, timeout=self.timeout, metadata_errors="replace")

    def _descriptor(self) -> int:
        """Return the descriptor of standard input, or of the FIFO.

        A FIFO is opened once. If it was closed between two connections, what the next writer has sent by then would be
        lost, and its next write would end it.
        """
        if self.source == STANDARD_INPUT:
            return sys.stdin.fileno()
        if self._fifo is None:
            self._fifo = os.open(self.source, os.O_RDONLY | os.O_NONBLOCK)
        return self._fifo

    def _decode(self, container: InputContainer) -> Iterator[av.VideoFrame]:
        """Yield frames from the first key frame on; earlier ones refer to frames that were not received."""
        begun = False
        for packet in container.demux(shown_stream(container)):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                if begun:
                    self.ring.lose()
                continue
            for frame in frames:
                begun = begun or frame.key_frame
                if begun:
                    yield frame

    def _add(self, frame: av.VideoFrame) -> None:
        now = time.monotonic()
        if self._convert is None:
            self._connect(frame, now)
        if self._missed:
            _logger.warning("%s is back after %.1f s", self.source, now - self._heard)
            self._missed = False
        self._heard = now
        shown = now - self._began if frame.time is None else frame.time + self._ahead
        self._latest = max(self._latest, shown)
        if self._is_file:
            self.stopped.wait(max(0.0, self._began + shown - now))
            now = time.monotonic()
        self.ring.add(Shown(shown, now), lambda: np.array(self._convert(frame)))

    def _connect(self, frame: av.VideoFrame, now: float) -> None:
        """Begin with the first frame of a connection: times count from the very first frame, also after a gap."""
        if self._began is None:
            self._began = now
        self._convert = Converter(frame)
        # A pipe may be read faster than its frames are shown.
        self._ahead = max(now - self._began, self._latest) - (frame.time or 0.0)


class _Pipe:
    """One connection of a FIFO, from the first byte to the moment without a writer, or standard input, for FFmpeg.

    Args:
        descriptor: Of a FIFO, without blocking, or of standard input.
        begun: Whether there is a writer; otherwise, wait for one.
        timeout: Seconds without data after which `silent` is called.
        stopped: Ends a read.
        silent: What to do about the silence.
    """

    def __init__(self, descriptor: int, *, begun: bool, timeout: float, stopped: Event, silent: Callable[[], None]):
        self._descriptor, self._begun, self._ended = descriptor, begun, False
        self._timeout, self._stopped, self._silent = timeout, stopped, silent

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end or after a stop."""
        began = time.monotonic()
        while not (self._ended or self._stopped.is_set()):
            if select.select([self._descriptor], [], [], _WAKE)[0]:
                with suppress(BlockingIOError):
                    data = os.read(self._descriptor, size)
                    if data or self._begun:
                        self._begun, self._ended = True, not data
                        return data
                    self._stopped.wait(_WAKE)  # the next writer has not come
            if time.monotonic() > began + self._timeout:
                self._silent()
        return b""


def _is_fifo(path: str) -> bool:
    return "://" not in path and stat.S_ISFIFO(os.stat(path).st_mode)
