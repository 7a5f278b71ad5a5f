"""Processing of several videos: predictions, curves and pictures; an error in one does not affect the others."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.annotations import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from datasets.labelled_segments import LabelledSegment, SegmentList
from datasets.readers import UnreadableVideoError
from inference.annotate import annotate_video
from inference.drawing import write_curve, write_png
from inference.heat_grid import draw_heat_grid
from inference.predictor import Measurement, Prediction, Predictor, Score, ScoresNotFiniteError
from inference.segments import SegmentSettings, find_segments
from inference.timeline import follow
from inference.windows import Curve


@dataclass(frozen=True)
class Outputs:
    """Outputs for each video in addition to its prediction.

    Attributes:
        curves: source -> plot to write; empty for none.
        annotated: source -> annotated video to write; empty for none.
        heat_maps: source -> picture to write; empty for none.
        windows: predict windows even if none of these files is written.
        window: frames per window, as in `follow`; 0 for the default.
        stride: frames between windows, as in `follow`; 0 for the default.
        segments: how segments are read off the curve; None for no segments.
        truth: labelled segments, drawn in curves and annotated videos beside those that were found; None for none.
    """

    curves: dict[str, Path] = field(default_factory=dict)
    annotated: dict[str, Path] = field(default_factory=dict)
    heat_maps: dict[str, Path] = field(default_factory=dict)
    windows: bool = False
    window: int = 0
    stride: int = 0
    segments: SegmentSettings | None = None
    truth: SegmentList | None = None

    @property
    def follows(self) -> bool:
        """Whether sliding windows are predicted."""
        return bool(self.windows or self.curves or self.explains or self.segments)

    @property
    def explains(self) -> bool:
        """Whether heat maps are computed."""
        return bool(self.annotated or self.heat_maps)


@dataclass(frozen=True)
class Result:
    """The result of one video: a prediction and optionally a curve and its segments, or an error."""

    path: str
    prediction: Prediction | Measurement | None = None
    curve: Curve | None = None
    segments: list[LabelledSegment] | None = None
    error: UnreadableVideoError | ScoresNotFiniteError | None = None

    def record(self, count: int = 5) -> dict[str, Any]:
        """Return the result as plain values for a line of JSON, with the `count` best classes.

        Returns:
            path, views and top (a list of label, name, probability), of a multilabel model also predicted (names), or
            of a regression targets (values by name) instead; with a curve also frames (their number) and
            windows (a list of first_frame, last_frame, top); after an error, path and error.
        """
        if self.error is not None:
            return {"path": self.path, "error": self.error.reason}
        record = {"path": self.path, "views": self.prediction.views}
        if isinstance(self.prediction, Measurement):
            return record | {"targets": self.prediction.by_name()}
        record["top"] = _plain(self.prediction.top(count))
        if self.prediction.threshold is not None:
            record["predicted"] = self.prediction.predicted
        if self.curve is not None:
            record["frames"] = self.curve.total_frames
            record["windows"] = [
                {"first_frame": first, "last_frame": last, "top": _plain(top)}
                for first, last, top in self.curve.tops(count)
            ]
        return record


def process(
    predictor: Predictor,
    sources: Sequence[str],
    outputs: Outputs,
    *,
    num_workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Iterator[Result]:
    """Predict the videos in order and write the outputs.

    Args:
        predictor: the model.
        sources: paths from `expand_sources`.
        outputs: files to write for each source.
        num_workers: processes that decode videos in advance.
        progress: wraps the windows and frames of a single video in a progress bar.
    """
    batch_size = max(1, predictor.clips_per_forward // predictor.views)
    for path, answer in predictor.predict_many(sources, batch_size=batch_size, num_workers=num_workers):
        if isinstance(answer, Exception):
            yield Result(path, error=answer)
            continue
        try:
            yield Result(path, answer, *_follow_and_write(predictor, path, outputs, progress))
        except (UnreadableVideoError, ScoresNotFiniteError) as error:
            yield Result(path, error=error)


def output_paths(given: str, sources: Sequence[str], suffix: str) -> dict[str, Path]:
    """Return the output file of each source.

    In an output folder, the files keep the positions of the sources relative to the sources' common folder.

    Args:
        given: a file name with `suffix`, for a single source, or a folder, which has another suffix of a picture or
            video only if it exists; empty for no output.
        sources: paths of the videos.
        suffix: of the output files.

    Raises:
        ValueError: another suffix, one file for several sources, or two sources with the same output.
    """
    if not given:
        return {}
    if given.lower().endswith(suffix):
        if len(sources) > 1:
            raise ValueError(f"{given} is one file, but there are {len(sources)} videos; give a folder")
        paths = {sources[0]: Path(given)}
    elif given.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)) and not os.path.isdir(given):
        raise ValueError(f"{given} should end in {suffix}, or be a folder")
    else:
        shared = os.path.commonpath([os.path.dirname(os.path.abspath(source)) for source in sources])
        paths = {
            source: Path(given) / Path(os.path.relpath(os.path.abspath(source), shared)).with_suffix(suffix)
            for source in sources
        }
    taken: dict[Path, str] = {}
    for source, path in paths.items():
        if path in taken:
            raise ValueError(f"{taken[path]} and {source} would both be written to {path}; process them separately")
        taken[path] = source
    return paths


def _follow_and_write(
    predictor: Predictor, path: str, outputs: Outputs, progress: Callable[[Iterable], Iterable]
) -> tuple[Curve | None, list[LabelledSegment] | None]:
    if not outputs.follows:
        return None, None
    reader = predictor.open(path)
    timeline = follow(
        predictor,
        reader,
        window=outputs.window,
        stride=outputs.stride,
        explain=outputs.explains,
        progress=progress,
    )
    segments, bars = None, {}
    if outputs.segments is not None:
        segments = find_segments(timeline.curve, outputs.segments, several=predictor.task == "multilabel")
        bars["found"] = segments
    if outputs.truth is not None:
        bars["truth"] = _true_segments(path, timeline.curve, outputs.truth)
    if path in outputs.curves:
        write_curve(timeline.curve, outputs.curves[path], title=os.path.basename(path), bars=bars)
    if path in outputs.annotated:
        annotate_video(reader, timeline, outputs.annotated[path], bars=bars, progress=progress)
    if path in outputs.heat_maps:
        write_png(draw_heat_grid(reader, timeline), outputs.heat_maps[path])
    return timeline.curve, segments


def _true_segments(path: str, curve: Curve, truth: SegmentList) -> list[LabelledSegment]:
    """Return the labelled segments of a video in the unit of its curve."""
    segments = truth.videos.get(os.path.abspath(path), [])
    if truth.unit == "seconds" and not curve.rate and segments:
        raise UnreadableVideoError(path, "its frame rate is unknown, but --truth is in seconds; give it in frames")
    if truth.unit == "frames":
        return [one._replace(start=curve.seconds(one.start), end=curve.seconds(one.end)) for one in segments]
    return segments


def _plain(scores: list[Score]) -> list[dict[str, Any]]:
    return [score._asdict() for score in scores]
