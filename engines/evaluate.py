"""The evaluation loop of validation (one view per video) and multi-view test; every video counts exactly once.

If videos are cut into windows, each window is evaluated once, and the outputs of a video's windows are merged.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from common.progress import progress
from engines.distributed import Context, gather_objects
from engines.objectives.base import Objective
from engines.parallel import gathered_weights, send_buffers

_logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """The result over the whole list, the same on all ranks; per-video entries are in the order of the list.

    Attributes:
        figures: the objective's metrics, name -> number.
        outputs: the objective's output for each video: an array (videos, ...) if all have one shape, else a list.
        records: the data set's records of these videos.
        indices: (videos,) positions in the list.
        views: clips per video, or per window.
        excluded: {"path", "line", "reason"} of each video that could not be read.
    """

    figures: dict[str, float]
    outputs: np.ndarray | list
    records: list
    indices: np.ndarray
    views: int
    excluded: list[dict]

    @property
    def videos(self) -> int:
        """Number of videos evaluated."""
        return len(self.indices)

    def summary(self) -> dict[str, float]:
        """Return the numbers for a log line: the figures, videos, and excluded (a count)."""
        return {**self.figures, "videos": self.videos, "excluded": len(self.excluded)}


@torch.no_grad()
def evaluate(
    objective: Objective,
    loader,
    context: Context,
    *,
    bf16: bool = False,
    clips_per_forward: int = 64,
    desc: str = "Test",
) -> Evaluation:
    """Evaluate an objective on the list behind `loader`, which is distributed over all ranks.

    The objective returns an output for each video. Outputs are gathered from all ranks by the video's position in the
    list, and the objective computes its metrics from them.

    Args:
        objective: bare module, not wrapped in DDP; weights sharded by FSDP are gathered for the evaluation.
        loader: yields batches with clips (videos, C, T, H, W) or (videos, views, C, T, H, W), targets, indices and
            unreadable; its dataset has `records`. A batch may be empty.
        context: this process.
        bf16: compute in bfloat16 with autocast.
        clips_per_forward: largest number of clips in one forward pass.
        desc: label of the progress bar.
    Raises:
        ValueError: no video of the list could be read, or the objective rejects the outputs.
        RuntimeError: outputs are NaN, or a video was evaluated twice or not at all.
    """
    was_training = objective.training
    objective.eval()
    send_buffers(objective)
    with gathered_weights(objective):
        outputs, unreadable, views = _evaluate_shard(objective, loader, context, bf16, clips_per_forward, desc)
    objective.train(was_training)
    return _merge_ranks(objective, outputs, unreadable, views, loader.dataset)


def _evaluate_shard(
    objective: Objective, loader, context: Context, bf16: bool, clips_per_forward: int, desc: str
) -> tuple[dict[int, Any], dict[int, str], int]:
    """Evaluate this rank's batches.

    Returns:
        position in the list -> output; position -> reason, for videos that could not be read; views per video.
    """
    outputs: dict[int, Any] = {}
    unreadable: dict[int, str] = {}
    views = 1
    for batch in progress(loader, desc=desc, enabled=context.is_main):
        unreadable.update({int(index): str(reason) for index, reason in batch["unreadable"]})
        clips, indices = batch["clips"], batch["indices"].tolist()
        if len(clips) == 0:
            continue
        views = clips.shape[1] if clips.dim() == 6 else 1
        with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=bf16):
            found = objective.outputs(batch, context.device, clips_per_forward=clips_per_forward)
        for index, output in zip(indices, found, strict=True):
            if index in outputs:
                raise RuntimeError(
                    f"{loader.dataset.records[index].path} was evaluated twice; a test sampler must not pad"
                )
            outputs[index] = output
    return outputs, unreadable, views


def _merge_ranks(
    objective: Objective, outputs: dict[int, Any], unreadable: dict[int, str], views: int, dataset
) -> Evaluation:
    """Merge the outputs of all ranks, check that each video of the list occurs once, and compute the metrics."""
    records = dataset.records
    merged: dict[int, Any] = {}
    excluded: dict[int, str] = {}
    ranks = gather_objects((outputs, unreadable, views))
    for rank_outputs, rank_unreadable, _ in ranks:
        twice = merged.keys() & rank_outputs.keys()
        if twice:
            raise RuntimeError(f"two processes evaluated {records[min(twice)].path}; a test sampler must not pad")
        merged.update(rank_outputs)
        excluded.update(rank_unreadable)
    missing = set(range(len(records))) - merged.keys() - excluded.keys()
    if missing:
        raise RuntimeError(
            f"{len(missing)} video(s) of the list were not evaluated, the first is {records[min(missing)].path}"
        )
    films = getattr(dataset, "films", None)
    if films is not None:
        merged, excluded = _merge_windows(objective, merged, excluded, records, films)
        records = films
    if not merged:
        raise ValueError(
            f"none of the {len(records)} videos could be read; the first: {records[0].path}: {excluded.get(0)}"
        )
    indices = sorted(merged)
    ordered = [merged[index] for index in indices]
    read = [records[index] for index in indices]
    _check_numbers(ordered, read)
    stacked = _stacked(ordered)
    return Evaluation(
        figures=objective.figures(stacked, read),
        outputs=stacked,
        records=read,
        indices=np.array(indices),
        views=max(rank_views for _, _, rank_views in ranks),
        excluded=[
            {"path": str(records[index].path), "line": records[index].line, "reason": reason}
            for index, reason in sorted(excluded.items())
        ],
    )


def _merge_windows(
    objective: Objective, outputs: dict[int, Any], unreadable: dict[int, str], windows: Sequence, films: Sequence
) -> tuple[dict[int, Any], dict[int, str]]:
    """Merge the outputs of the windows of each film.

    Args:
        objective: Merges outputs.
        outputs: Position of a window -> output.
        unreadable: Position of a window -> reason.
        windows: Records of the windows.
        films: Records of the list, with the same lines.

    Returns:
        position of a film -> output; position -> reason, for films of which a window could not be read.
    """
    place_of = {film.line: place for place, film in enumerate(films)}
    excluded: dict[int, str] = {}
    for window, reason in sorted(unreadable.items()):
        excluded.setdefault(place_of[windows[window].line], reason)
    parts: dict[int, list] = {}
    for window in sorted(outputs):
        parts.setdefault(place_of[windows[window].line], []).append(outputs[window])
    return {film: objective.merge_windows(found) for film, found in parts.items() if film not in excluded}, excluded


def _stacked(outputs: list) -> np.ndarray | list:
    """Stack arrays of equal shape; return anything else unchanged."""
    shapes = {output.shape if isinstance(output, (np.ndarray, np.generic)) else None for output in outputs}
    return np.stack(outputs) if len(shapes) == 1 and None not in shapes else outputs


def _check_numbers(outputs: list, records: Sequence) -> None:
    """Raise a RuntimeError for NaN outputs, whose metrics would be meaningless."""
    broken = [
        record.path
        for output, record in zip(outputs, records, strict=True)
        if isinstance(output, (np.ndarray, np.generic)) and np.isnan(output).any()
    ]
    if broken:
        raise RuntimeError(
            f"the model's outputs are not finite for {len(broken)} of {len(records)} videos, the first is "
            f"{broken[0]}; check the weights, or try --no_bf16"
        )
