"""Predict a live source window by window, with bounded memory and latency."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import numpy as np
import torch

from engines.cuda_graph import first_passes
from inference.frame_ring import FrameRing, LiveWindow
from inference.live_source import LiveSource
from inference.predictor import Prediction, Predictor, ScoresNotFiniteError
from inference.timeline import read_windows

_WAKE = 0.1  # seconds after which a wait for frames looks for signals


class LivePrediction:
    """Predictions of a live source.

    Args:
        predictor: The model; windows are read and predicted as in `inference.timeline.follow`.
        name: The source, as in `LiveSource`.
        window: Frames per window; 0 for the span of a clip of the model.
        stride: Frames between windows; 0 for a quarter of the window.
        backlog: Frames that may arrive while the model is busy before any are dropped; 0 for a window.
        timeout: Seconds without a frame after which the source is opened again.
    """

    def __init__(
        self, predictor: Predictor, name: str, *, window: int = 0, stride: int = 0, backlog: int = 0, timeout: float
    ):
        window = window or predictor.span
        sampled = predictor.plan.sample(window, mode="test", segment=0, num_segments=1)
        self.predictor = predictor
        self.ring = FrameRing(window, stride or max(1, window // 4), sampled, backlog or window)
        self._source = LiveSource(name, self.ring, timeout)

    def records(self, stopped: Event, count: int = 5) -> Iterator[dict[str, Any]]:
        """Yield a record for each window until the source ends or `stopped` is set.

        A record has `start` and `end` in seconds since the first frame, `top` (the `count` best classes, each with
        label, name and probability), of a multilabel model `predicted` (names), `latency` (seconds from the arrival of
        the last frame to this record) and `dropped` (frames lost or skipped since the window before). If scores are
        not finite, `error` replaces the classes.

        Raises:
            SourceError: The source cannot be opened, or a file is damaged.
        """
        # The first forward passes allocate memory, and may compile or be captured; frames should not have to wait.
        plan = self.predictor.plan
        views_that_differ = torch.rand(1, plan.crops, *plan.clip_shape)
        for _ in range(first_passes(self.predictor.model)):
            self.predictor.probabilities(views_that_differ)
        self._source.start()
        try:
            while not stopped.is_set():
                window = self.ring.take(_WAKE)
                if window is not None:
                    yield self._record(window, count)
                elif self.ring.closed:
                    break
        finally:
            self._source.stopped.set()
            self._source.join(1)  # a read that still waits for the network ends with the process
        if self._source.error:
            raise self._source.error

    def _record(self, window: LiveWindow, count: int) -> dict[str, Any]:
        clips, _ = read_windows(self.predictor, window, np.zeros(1, dtype=np.int64), len(window))
        (probabilities,) = self.predictor.probabilities(clips)
        record: dict[str, Any] = {"start": round(window.start, 3), "end": round(window.end, 3)}
        if np.isfinite(probabilities).all():
            views, threshold = clips.shape[1], self.predictor.threshold
            prediction = Prediction(probabilities, self.predictor.label_names, views, threshold)
            record["top"] = [score._asdict() for score in prediction.top(count)]
            if threshold is not None:
                record["predicted"] = prediction.predicted
        else:
            record["error"] = ScoresNotFiniteError.reason
        return record | {"latency": round(time.monotonic() - window.arrival, 3), "dropped": window.dropped}


@contextmanager
def stopped_by_signals() -> Iterator[Event]:
    """Yield an event that SIGINT and SIGTERM set; a second signal acts as usual."""
    stopped = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(*_: Any) -> None:
        stopped.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
