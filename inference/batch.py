"""Many videos in a row: predictions, curves and pictures of each, whatever happens to the others."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.readers import UnreadableVideoError
from inference.annotate import annotate_video
from inference.drawing import write_curve, write_png
from inference.heat_grid import draw_heat_grid
from inference.predictor import Prediction, Predictor, Score, ScoresNotFiniteError
from inference.timeline import follow
from inference.windows import Curve


@dataclass(frozen=True)
class Outputs:
    """What is made of each video beside its prediction.

    Attributes:
        curves, annotated, heat_maps: source -> file to write; empty for none.
        windows: follow the video even where none of them is written.
        window, stride: in frames, as in `follow`; 0 for their defaults.
    """

    curves: dict[str, Path] = field(default_factory=dict)
    annotated: dict[str, Path] = field(default_factory=dict)
    heat_maps: dict[str, Path] = field(default_factory=dict)
    windows: bool = False
    window: int = 0
    stride: int = 0

    @property
    def follows(self) -> bool:
        """Whether a window slides over the videos."""
        return bool(self.windows or self.curves or self.explains)

    @property
    def explains(self) -> bool:
        """Whether heat maps are drawn."""
        return bool(self.annotated or self.heat_maps)


@dataclass(frozen=True)
class Result:
    """What came of one video: a prediction and perhaps a curve, or the error that says why not."""

    path: str
    prediction: Prediction | None = None
    curve: Curve | None = None
    error: UnreadableVideoError | ScoresNotFiniteError | None = None

    def record(self, count: int = 5) -> dict[str, Any]:
        """The result as plain values, with the `count` best classes: a line of JSON.

        Returns:
            path, views, top (a list of label, name, probability) and, where there is a curve, frames (a count) and
            windows (a list of first_frame, last_frame, top); or path and error.
        """
        if self.error is not None:
            return {"path": self.path, "error": self.error.reason}
        record = {"path": self.path, "views": self.prediction.views, "top": _plain(self.prediction.top(count))}
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
    """Predict the videos in order and write what `outputs` asks for.

    Args:
        sources: paths, as `expand_sources` gives. num_workers: processes that decode ahead.
        progress: wraps the windows and the frames of a single video, for a progress bar.
    """
    batch_size = max(1, predictor.clips_per_forward // predictor.views)
    for path, answer in predictor.predict_many(sources, batch_size=batch_size, num_workers=num_workers):
        if isinstance(answer, Exception):
            yield Result(path, error=answer)
            continue
        try:
            yield Result(path, answer, _follow_and_write(predictor, path, outputs, progress))
        except (UnreadableVideoError, ScoresNotFiniteError) as error:
            yield Result(path, error=error)


def output_paths(given: str, sources: Sequence[str], suffix: str) -> dict[str, Path]:
    """Where to write for each source: the file that is given for a single one, else files in the folder of that name.

    In a folder the files lie as the sources do below the folder that they share.

    Args:
        given: a file with `suffix`, or a folder; empty for nothing.

    Raises:
        ValueError: a file for several sources, two sources with one file, or a source would be overwritten.
    """
    if not given:
        return {}
    if given.lower().endswith(suffix):
        if len(sources) > 1:
            raise ValueError(f"{given} is one file, and there are {len(sources)} videos; give a folder")
        paths = {sources[0]: Path(given)}
    else:
        shared = os.path.commonpath([os.path.dirname(os.path.abspath(source)) for source in sources])
        paths = {
            source: Path(given) / Path(os.path.relpath(os.path.abspath(source), shared)).with_suffix(suffix)
            for source in sources
        }
    taken: dict[Path, str] = {}
    for source, path in paths.items():
        if os.path.realpath(path) == os.path.realpath(source):
            raise ValueError(f"{path} would overwrite the video itself; give another name")
        if path in taken:
            raise ValueError(f"{taken[path]} and {source} would both be written to {path}; name them one at a time")
        taken[path] = source
    return paths


def _follow_and_write(
    predictor: Predictor, path: str, outputs: Outputs, progress: Callable[[Iterable], Iterable]
) -> Curve | None:
    if not outputs.follows:
        return None
    reader = predictor.open(path)
    timeline = follow(
        predictor,
        reader,
        window=outputs.window,
        stride=outputs.stride,
        explain=outputs.explains,
        progress=progress,
    )
    if path in outputs.curves:
        write_curve(timeline.curve, outputs.curves[path], title=os.path.basename(path))
    if path in outputs.annotated:
        annotate_video(reader, timeline, outputs.annotated[path], progress=progress)
    if path in outputs.heat_maps:
        write_png(draw_heat_grid(reader, timeline), outputs.heat_maps[path])
    return timeline.curve


def _plain(scores: list[Score]) -> list[dict[str, Any]]:
    return [score._asdict() for score in scores]
