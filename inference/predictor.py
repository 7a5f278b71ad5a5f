"""A predictor from a checkpoint: `load_predictor(FILE).predict("video.mp4")`."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets.build import build_plan, window_length
from datasets.clip_dataset import ClipPlan, read_clips
from datasets.labels import LabelTask
from datasets.readers import FrameReader, Guard, UnreadableVideoError, open_part, open_reader, require_reader
from datasets.segments import Segment
from engines.cuda_graph import GraphedForward
from engines.distributed import resolve_device
from engines.objectives.base import Objective
from engines.objectives.multilabel import Multilabel
from engines.objectives.tasks import create_objective, take_from_checkpoint
from inference.labels import label_names_of
from inference.many import answer_many
from inference.pooling import pool_features
from inference.settings import inference_settings
from inference.sources import FramesInMemory, opener_of, windows_of
from models.build import build_model
from models.checkpoint import load_checkpoint
from models.describe import describe_checkpoint
from models.videomambapro import VideoMambaPro

_logger = logging.getLogger(__name__)

Source = str | os.PathLike | np.ndarray | Tensor | FrameReader


class ScoresNotFiniteError(ArithmeticError):
    """The model's scores are not finite, so there is no prediction."""

    reason = (
        "the model's scores are not finite: its weights are damaged, or values are too large for bfloat16 (--no-bf16)"
    )

    def __str__(self) -> str:
        return self.reason


class Score(NamedTuple):
    """A class and its probability."""

    label: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for a video.

    Attributes:
        probabilities: (classes,) float32, averaged over the views; of a multilabel model, they are independent.
        label_names: names of all classes.
        views: number of clips that were averaged.
        threshold: probability from which a class of a multilabel model counts as predicted; None for other models.
    """

    probabilities: np.ndarray
    label_names: tuple[str, ...]
    views: int
    threshold: float | None = None

    @property
    def predicted(self) -> list[str]:
        """The names of the predicted classes: one, or those of a multilabel model that reach its threshold."""
        if self.threshold is None:
            return [self.top(1)[0].name]
        return [self.label_names[label] for label in np.flatnonzero(self.probabilities >= self.threshold)]

    def top(self, count: int = 5) -> list[Score]:
        """Return the `count` most probable classes, or all if there are fewer, best first."""
        return top_scores(self.probabilities, self.label_names, count)


@dataclass(frozen=True)
class Measurement:
    """The numbers that a regression predicts for a video.

    Attributes:
        values: (targets,) float64, averaged over the views, in the units of the training list.
        names: names of the targets.
        views: number of clips that were averaged.
    """

    values: np.ndarray
    names: tuple[str, ...]
    views: int

    def by_name(self) -> dict[str, float]:
        """Return the values by the names of their targets."""
        return dict(zip(self.names, self.values.tolist(), strict=True))


def certainty(probability: float, classes: int) -> float:
    """Rescale the highest of `classes` probabilities from chance..1 to 0..1."""
    return float((probability - 1 / classes) / (1 - 1 / classes)) if classes > 1 else 1.0


def top_scores(probabilities: np.ndarray, label_names: Sequence[str], count: int = 5) -> list[Score]:
    """Return the classes with the `count` highest `probabilities` (classes,), best first; ties by label."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [Score(int(label), label_names[label], float(probabilities[label])) for label in order]


@dataclass(frozen=True)
class Predictor:
    """A trained model on its device, and how to read videos for it.

    Attributes:
        model: in evaluation mode.
        task: what the model predicts: one class, several, or numbers.
        objective: the model with what its outputs need to become predictions.
        plan: sampling of frames, transforms, segments and crops, as in the test.
        label_names: a name for each class or target; numbered if unknown.
        device: device of the model.
        bf16: compute in bfloat16 with autocast.
        span: length of video that a clip covers, in frames; the default window of a curve.
        window: length of the windows, in seconds, that files are cut into and whose predictions are averaged; 0 for
            whole videos.
        window_stride: seconds between the starts of windows.
        crop_share: side of a crop relative to that of the largest one in the frame; below 1 for image models.
        clips_per_forward: largest number of clips in one forward pass, which limits the memory.
        filename_tmpl: file names of the frames in a folder.
        reader: decoder of videos.
        guard: decodes files in a separate process, which may hang or crash; None: in this process.
    """

    model: VideoMambaPro
    task: LabelTask
    objective: Objective
    plan: ClipPlan
    label_names: tuple[str, ...]
    device: torch.device
    bf16: bool
    span: int
    crop_share: float
    clips_per_forward: int
    filename_tmpl: str
    reader: str
    guard: Guard | None
    window: float = 0
    window_stride: float = 1

    @property
    def views(self) -> int:
        """Number of clips per video, segments x crops."""
        return self.plan.segments * self.plan.crops

    @property
    def threshold(self) -> float | None:
        """Probability from which a class of a model of several labels counts as predicted; None for other models."""
        return self.objective.threshold if isinstance(self.objective, Multilabel) else None

    def open(self, source: Source, segment: Segment | None = None) -> FrameReader:
        """Return a reader for a path, or a segment of it, or for uint8 frames (N, H, W, 3); return a reader unchanged.

        With a guard, the reader of a path is valid until the next path is opened.

        Raises:
            UnreadableVideoError: the path does not exist or cannot be read.
        """
        if isinstance(source, (str, os.PathLike)):
            path = os.fspath(source)
            opener = open_part(opener_of(path, self.filename_tmpl, self.reader), segment)
            return open_reader(path, opener, self.guard)
        if isinstance(source, (np.ndarray, Tensor)):
            return FramesInMemory(source)
        return source

    def predict(self, source: Source) -> Prediction | Measurement:
        """Predict a video from all views, as in the test.

        Args:
            source: path of a video, an image or a folder of frames; or the frames of a video, uint8 (N, H, W, 3) RGB,
                as an array or tensor; or normalised clips, a float tensor (C, T, H, W) or (views, C, T, H, W).

        Raises:
            UnreadableVideoError: the path does not exist or cannot be read.
            ScoresNotFiniteError: the scores are not finite.
            ValueError: an array has another type or shape.
        """
        views, rows = 0, []
        for clips in self._windows(source):
            views += len(clips)
            rows.append(self._outputs(clips[None])[0])
        answer = self._prediction(rows, views)
        if isinstance(answer, ScoresNotFiniteError):
            raise answer
        return answer

    def features(self, source: Source, pool: str = "class") -> np.ndarray:
        """Compute the features of every view of a video, float32 (views, ...).

        Args:
            source: as in `predict`.
            pool: "class" (views, d), which the head maps to logits, or another of `inference.defaults.POOLS`.

        Raises:
            UnreadableVideoError: the path does not exist or cannot be read.
            ScoresNotFiniteError: the features are not finite.
            ValueError: an array has another type or shape, or `pool` is unknown.
        """
        features = np.concatenate([self.features_of_clips(clips, pool) for clips in self._windows(source)])
        if not np.isfinite(features).all():
            raise ScoresNotFiniteError
        return features

    def predict_many(
        self, paths: Sequence[str], *, batch_size: int = 1, num_workers: int = 0
    ) -> Iterator[tuple[str, Prediction | Measurement | UnreadableVideoError | ScoresNotFiniteError]]:
        """Predict several videos in order; one that cannot be read or scored yields its error.

        Args:
            paths: of the videos.
            batch_size: videos per forward pass.
            num_workers: processes that decode videos in advance.

        Yields:
            path, and prediction or error.
        """
        for path, rows in answer_many(self, paths, self._outputs, batch_size, num_workers):
            if isinstance(rows, UnreadableVideoError):
                yield path, rows
            else:
                yield path, self._prediction(rows, len(rows) * self.views)

    def features_many(
        self, paths: Sequence[str], pool: str = "class", *, batch_size: int = 1, num_workers: int = 0
    ) -> Iterator[tuple[str, np.ndarray | UnreadableVideoError | ScoresNotFiniteError]]:
        """Compute the `features` of several videos in order, as `predict_many` predicts them.

        Yields:
            path, and features (views, ...) or error.
        """

        def answers(clips: Tensor) -> np.ndarray:
            rows = self.features_of_clips(clips.flatten(0, 1), pool)
            return rows.reshape(*clips.shape[:2], *rows.shape[1:])

        for path, windows in answer_many(self, paths, answers, batch_size, num_workers):
            if isinstance(windows, UnreadableVideoError):
                yield path, windows
                continue
            rows = np.concatenate(windows)
            yield path, rows if np.isfinite(rows).all() else ScoresNotFiniteError()

    def features_of_clips(self, clips: Tensor, pool: str = "class") -> np.ndarray:
        """Compute features, float32 (n, ...), of normalised clips (n, C, T, H, W); see `features`."""
        parts = clips.split(self.clips_per_forward)
        with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            rows = [pool_features(self.model, part.to(self.device), pool).float().cpu() for part in parts]
        return torch.cat(rows).numpy()

    def probabilities(self, clips: Tensor) -> np.ndarray:
        """Return probabilities (videos, classes), float32, of clips (videos, views, C, T, H, W), averaged over views.

        They are NaN for videos whose scores are NaN.

        Raises:
            ValueError: the model has no head, or predicts numbers.
        """
        if self.task == "regression":
            raise ValueError("this model predicts numbers (--task regression), so there are no probabilities")
        outputs = self._outputs(clips)
        return outputs if self.task == "multilabel" else np.exp(outputs)

    def _outputs(self, clips: Tensor) -> np.ndarray:
        """Return the outputs of the objective (videos, ...) for clips (videos, views, C, T, H, W)."""
        if not self.label_names:
            raise ValueError("this predictor was loaded without a head: it has features but predicts no classes")
        batch = {"clips": clips}
        with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return np.asarray(self.objective.outputs(batch, self.device, clips_per_forward=self.clips_per_forward))

    def _windows(self, source: Source) -> Iterator[Tensor]:
        """Read the views of each window of a video (views, C, T, H, W); clips are yielded as they are."""
        if isinstance(source, Tensor) and source.is_floating_point():
            yield source[None] if source.dim() == 4 else source
            return
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        for segment in windows_of(path, self.window, self.window_stride) if path else [None]:
            yield read_clips(self.open(source, segment), self.plan, np.random.default_rng(0))

    def _prediction(self, windows: list[np.ndarray], views: int) -> Prediction | Measurement | ScoresNotFiniteError:
        """Return the prediction for a video from the outputs of its windows."""
        row = self.objective.merge_windows(windows) if len(windows) > 1 else windows[0]
        row = np.exp(row) if self.task == "classification" else row
        if not np.isfinite(row).all():
            return ScoresNotFiniteError()
        if self.task == "regression":
            return Measurement(row, self.label_names, views)
        return Prediction(row, self.label_names, views, self.threshold)


def load_predictor(
    checkpoint: str | Path,
    *,
    device: str = "",
    label_names: str | Path | Sequence[str] = "",
    recipe: str = "",
    bf16: bool | None = None,
    cuda_graph: bool = False,
    clips_per_forward: int = 16,
    override_checkpoint: Sequence[str] = (),
    head: bool = True,
    **overrides: Any,
) -> Predictor:
    """Load a checkpoint, published or our own, as a predictor.

    The model of our own checkpoints is rebuilt from the configuration in the file; for other checkpoints, sizes are
    recognised from the tensors. Frames and views are those that the run tested with, if the file records them;
    otherwise those of the recipe of a published data set with the same number of classes, with a warning.

    Args:
        checkpoint: .pth or .safetensors.
        device: "cpu", "cuda", "cuda:1"; empty for cuda if available.
        label_names: names in the order of the labels, or a file with one per line; empty for those in the checkpoint.
        recipe: recipe of sampling and views, such as "k400".
        bf16: compute in bfloat16; None: if the GPU supports it, as in the test.
        cuda_graph: launch forward passes as CUDA graphs (`GraphedForward`).
        clips_per_forward: largest number of clips in one forward pass.
        override_checkpoint: names of overrides that may contradict the switches in the file.
        head: False for a predictor of features only, from files with and without a head.
        overrides: flags of model and data by name, such as `backend`, `sampling_rate`, `num_frames`,
            `test_num_segment`, `test_num_crop`, `reader` and `read_timeout`; `**QUICK` for a single view.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: the file is not a checkpoint of this family, or has no head and needs one.
        ValueError: an override is unknown or contradicts the file, the number of names differs from the number of
            classes, the library of the reader is missing, the device does not exist, or it has no CUDA graphs.
    """
    facts = describe_checkpoint(checkpoint)
    model_settings, data = inference_settings(facts, recipe, overrides, override_checkpoint, head=head)
    require_reader(data.reader)
    images = data.num_frames == 1
    plan = build_plan("test", "image" if images else "video", data)
    # Fewer classes than in the file are its first ones: Kinetics-400 with a head for Kinetics-710.
    classes = data.nb_classes if head else 0
    saved_names = (facts.flags.get("class_names") or [])[:classes]
    task: LabelTask = (facts.flags.get("task") if head else None) or "classification"
    names = label_names_of(label_names or saved_names, classes, "target" if task == "regression" else "class")
    model = build_model(model_settings, classes)
    report = load_checkpoint(model, checkpoint, require_head=head, overridden=override_checkpoint)
    changed = report.names("interpolated") + report.names("inflated") + report.names("sliced")
    if changed:
        _logger.info("adapted from %s: %s", checkpoint, ", ".join(changed))
    resolved = resolve_device(device)
    if bf16 is None:
        bf16 = resolved.type == "cuda" and torch.cuda.is_bf16_supported()
    view_merge = facts.flags.get("view_merge") or "mean"
    objective = create_objective(task, model, classes, names=names, view_merge=view_merge)
    take_from_checkpoint(objective, facts)
    objective.to(resolved).eval()
    if cuda_graph:
        model.forward_tokens = GraphedForward(model, resolved)
    return Predictor(
        model=model,
        task=task,
        objective=objective,
        plan=plan,
        label_names=names,
        device=resolved,
        bf16=bf16,
        span=data.num_frames * data.sampling_rate,
        crop_share=data.crop_pct if images else 1.0,
        clips_per_forward=clips_per_forward,
        filename_tmpl=data.filename_tmpl,
        reader=data.reader,
        guard=Guard(data.read_timeout, reader=data.reader) if data.read_timeout else None,
        window=0 if images else window_length(data),
        window_stride=data.window_stride,
    )
