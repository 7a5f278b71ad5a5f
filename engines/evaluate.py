"""One evaluation loop for validation (one view a video) and the multi-view test; every video counts exactly once."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from datasets.transforms import finish
from engines.distributed import Context, gather_objects
from engines.logs import progress
from engines.parallel import gathered_weights

_logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """Result over the whole list, the same on all ranks; arrays are ordered by the videos' place in the list.

    Attributes:
        acc1: top-1 accuracy in percent.
        acc5: top-5 accuracy in percent (100 where there are at most five classes).
        loss: mean of -log(probability of the label), the probability averaged over views.
        views: clips per video.
        excluded: {"path", "line", "reason"} of each video that could not be read.
        indices: (videos,) places in the dataset's records.
        labels: (videos,) true classes.
        predictions: (videos,) classes of highest mean probability.
        scores: (videos, classes) float32, probabilities averaged over views.
    """

    acc1: float
    acc5: float
    loss: float
    views: int
    excluded: list[dict]
    indices: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    scores: np.ndarray

    @property
    def videos(self) -> int:
        """Number of videos evaluated."""
        return len(self.labels)

    def confusion_matrix(self, num_classes: int) -> np.ndarray:
        """Count videos per (true class, predicted class): (num_classes, num_classes) int64."""
        cells = np.bincount(self.labels * num_classes + self.predictions, minlength=num_classes**2)
        return cells.reshape(num_classes, num_classes)

    def summary(self) -> dict[str, float]:
        """Return the numbers for a log line: acc1, acc5, loss, videos, excluded (a count)."""
        return {
            "acc1": self.acc1,
            "acc5": self.acc5,
            "loss": self.loss,
            "videos": self.videos,
            "excluded": len(self.excluded),
        }


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader,
    context: Context,
    *,
    num_classes: int,
    bf16: bool = False,
    clips_per_forward: int = 64,
    desc: str = "Test",
) -> Evaluation:
    """Evaluate the bare `model` on the list behind `loader`, whose parts on all ranks make up the list.

    Each view's logits are turned into probabilities, a video's probabilities are averaged over its views, and the
    classes are ranked by that mean. Scores are keyed by the video's place in the list and merged by collectives.

    Args:
        model: bare module, not wrapped in DDP; one sharded by FSDP is put together for the time.
        loader: gives batches with clips (videos, C, T, H, W) or (videos, views, C, T, H, W), labels, indices and
            unreadable; its dataset has `records`. A batch may have no video.
        context: this process.
        num_classes: width of the logits.
        bf16: compute in bfloat16 by autocast; probabilities are float32 all the same.
        clips_per_forward: most clips in one forward pass, which bounds the memory whatever the number of views.
        desc: name on the progress bar.
    Raises:
        ValueError: no video of the list could be read.
        RuntimeError: scores that are not finite, or a video that came twice or not at all.
    """
    was_training = model.training
    model.eval()
    with gathered_weights(model):
        scores, unreadable, views = _evaluate_shard(model, loader, context, bf16, clips_per_forward, desc)
    model.train(was_training)
    return _merge_ranks(scores, unreadable, views, loader.dataset.records, num_classes)


def _evaluate_shard(
    model: nn.Module, loader, context: Context, bf16: bool, clips_per_forward: int, desc: str
) -> tuple[dict[int, tuple[np.ndarray, int]], dict[int, str], int]:
    """Evaluate this rank's batches: place in the list -> (log of the mean probabilities, label); failures; views."""
    scores: dict[int, tuple[np.ndarray, int]] = {}
    unreadable: dict[int, str] = {}
    views = 1
    for batch in progress(loader, desc=desc, enabled=context.is_main):
        unreadable.update({int(index): str(reason) for index, reason in batch["unreadable"]})
        clips, indices = batch["clips"], batch["indices"].tolist()
        if len(clips) == 0:
            continue
        clips = clips.unsqueeze(1) if clips.dim() == 5 else clips
        views = clips.shape[1]
        log_means = mean_over_views(model, clips, context.device, bf16, clips_per_forward).numpy()
        for index, label, row in zip(indices, batch["labels"].tolist(), log_means, strict=True):
            if index in scores:
                raise RuntimeError(f"{loader.dataset.records[index].path} came twice; a test sampler must not pad")
            scores[index] = (row, label)
    return scores, unreadable, views


def mean_over_views(
    model: nn.Module, clips: torch.Tensor, device: torch.device, bf16: bool, clips_per_forward: int
) -> torch.Tensor:
    """Return log(mean over views of softmax(logits)) for clips (videos, views, C, T, H, W), normalised or uint8.

    The result is (videos, classes), float32, on the CPU. It stays a logarithm, so that the loss of a prediction that
    is sure and wrong stays finite.
    """
    videos, views = clips.shape[:2]
    parts = []
    for part in clips.flatten(0, 1).split(clips_per_forward):
        part = finish(part.to(device, non_blocking=True))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model(part)
        parts.append(logits.float().log_softmax(-1))
    log_probabilities = torch.cat(parts).unflatten(0, (videos, views))
    return (log_probabilities.logsumexp(1) - np.log(views)).cpu()


def _merge_ranks(scores: dict, unreadable: dict[int, str], views: int, records, num_classes: int) -> Evaluation:
    """Merge all ranks' scores, check that every video of the list is there once, and compute the accuracies."""
    merged: dict[int, tuple[np.ndarray, int]] = {}
    excluded: dict[int, str] = {}
    ranks = gather_objects((scores, unreadable, views))
    for rank_scores, rank_unreadable, _ in ranks:
        twice = merged.keys() & rank_scores.keys()
        if twice:
            raise RuntimeError(f"two processes evaluated {records[min(twice)].path}; a test sampler must not pad")
        merged.update(rank_scores)
        excluded.update(rank_unreadable)
    missing = set(range(len(records))) - merged.keys() - excluded.keys()
    if missing:
        raise RuntimeError(
            f"{len(missing)} video(s) of the list were never evaluated, the first is {records[min(missing)].path}"
        )
    if not merged:
        raise ValueError(
            f"none of the {len(records)} videos could be read; the first: {records[0].path}: {excluded.get(0)}"
        )
    indices = np.array(sorted(merged))
    log_means = np.stack([merged[index][0] for index in indices.tolist()])
    labels = np.array([merged[index][1] for index in indices.tolist()])
    _check_scores(log_means, labels, indices, records, num_classes)
    ranking = torch.from_numpy(log_means).topk(min(5, num_classes)).indices.numpy()
    hits = ranking == labels[:, None]
    return Evaluation(
        acc1=100.0 * float(hits[:, 0].mean()),
        acc5=100.0 * float(hits.any(axis=1).mean()),
        loss=float(-log_means[np.arange(len(labels)), labels].mean(dtype=np.float64)),
        views=max(rank_views for _, _, rank_views in ranks),
        excluded=[
            {"path": str(records[index].path), "line": records[index].line, "reason": reason}
            for index, reason in sorted(excluded.items())
        ],
        indices=indices,
        labels=labels,
        predictions=ranking[:, 0],
        scores=np.exp(log_means),
    )


def _check_scores(log_means: np.ndarray, labels: np.ndarray, indices: np.ndarray, records, num_classes: int) -> None:
    """Refuse what would give an accuracy that means nothing."""
    if log_means.shape[1] != num_classes:
        raise ValueError(f"the model gives {log_means.shape[1]} scores per clip, and there are {num_classes} classes")
    if labels.max() >= num_classes or labels.min() < 0:
        record = records[indices[np.argmax((labels >= num_classes) | (labels < 0))]]
        raise ValueError(
            f"line {record.line}: {record.path} has label {record.label}, and the model has "
            f"{num_classes} classes, of which 0 is the first; check the list and --nb_classes"
        )
    broken = np.isnan(log_means).any(axis=1)
    if broken.any():
        raise RuntimeError(
            f"the model's scores are not finite for {int(broken.sum())} of {len(labels)} videos, the "
            f"first is {records[indices[broken.argmax()]].path}; check the weights, or try --no_bf16"
        )
