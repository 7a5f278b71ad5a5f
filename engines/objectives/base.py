"""The interface between the engine and a task: model, loss and metrics."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.collate import clips_on
from datasets.transforms import finish

MODEL_PREFIX = "model."


@dataclass(frozen=True)
class Score:
    """The metric that selects the best checkpoint.

    Attributes:
        name: key in `Objective.figures`.
        higher_is_better: False for an error or a loss.
    """

    name: str
    higher_is_better: bool = True

    def is_better(self, value: float, than: float | None) -> bool:
        """Return whether `value` is strictly better than `than` (None: no value yet); NaN never is."""
        if than is None:
            return not math.isnan(value)
        return value > than if self.higher_is_better else value < than


class Objective(nn.Module):
    """A model together with its loss and metrics.

    This is all that the training loop, evaluation, checkpoints and logs know about a task. A subclass must define
    `forward` and `figures`; everything else has a default for tasks with one output per clip.

    Parameters of the objective (heads, a decoder) are registered as usual: they are optimized, included in the EMA,
    saved and synchronised together with those of the model. A frozen teacher belongs in `Unregistered`.

    Attributes:
        model: the network; its parameters keep their names in checkpoints.
        score: the metric that selects the best checkpoint; None if there is none.
        fixed_shapes: whether `prepare` returns only tensors, whose shapes are those of the clips (for --cuda_graph).
    """

    score: Score | None = None
    fixed_shapes: bool = True

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def count(self, batch: dict) -> int:
        """Return the number of items (clips, boxes, tokens) that the loss of a batch is a mean over."""
        return len(batch["clips"])

    def prepare(self, batch: dict, device: torch.device) -> dict:
        """Move what `forward` needs of a batch to the device.

        Random operations (mixing, drawing masks) and anything but tensors belong here, as `forward` may be compiled.
        Both run under autocast if the run uses bfloat16.

        Args:
            batch: from the dataloader (datasets/collate.py), with clips and targets.
            device: of the model.

        Returns:
            the argument of `forward`.
        """
        return {"clips": clips_on(device, batch), "targets": to_device(batch["targets"], device)}

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the loss of a prepared batch. It runs under autocast if the run uses bfloat16.

        Returns:
            "loss" and any other scalars to log, each a mean over the items that `count` counts, or 0 if there are
            none. The engine weights them by that count over accumulated batches and processes.
        """
        raise NotImplementedError

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return groups of parameters with an "lr" and "weight_decay" of their own; none for those of the settings."""
        return []

    def predict(self, clips: Tensor) -> Tensor:
        """Return the outputs (n, ...) of single views (n, C, T, H, W), float32."""
        return self.model(clips).float()

    def merge_views(self, outputs: Tensor) -> Tensor:
        """Merge outputs (videos, views, ...) into one per video (videos, ...); by default their mean."""
        return outputs.mean(1)

    def merge_windows(self, outputs: list) -> np.ndarray:
        """Merge the outputs of the windows of one video, each merged over its views, as views are merged."""
        return self.merge_views(torch.from_numpy(np.stack(outputs)).unsqueeze(0))[0].numpy()

    def outputs(self, batch: dict, device: torch.device, *, clips_per_forward: int) -> Sequence | np.ndarray:
        """Return an output for each video of a batch: an array, or picklable values that `figures` understands.

        Every forward pass must go through `predict`, which works on models sharded by FSDP. An override may pass it
        more than clips, for example the boxes in the targets.

        Args:
            batch: clips (videos, C, T, H, W) or (videos, views, C, T, H, W), normalised or uint8.
            device: of the model.
            clips_per_forward: largest number of clips in one forward pass, which limits the memory for many views.
        """
        clips = batch["clips"]
        clips = clips.unsqueeze(1) if clips.dim() == 5 else clips
        same = first_same_view(clips)
        shown = sorted(set(same))
        if len(shown) < len(same):
            clips = clips[:, shown]
        parts = clips.flatten(0, 1).split(clips_per_forward)
        outputs = torch.cat([self.predict(finish(part.to(device, non_blocking=True))) for part in parts])
        outputs = outputs.unflatten(0, clips.shape[:2])[:, [shown.index(view) for view in same]]
        return self.merge_views(outputs).cpu().numpy()

    def figures(self, outputs: np.ndarray | list, records: Sequence) -> dict[str, float]:
        """Compute the metrics of a test or validation.

        Args:
            outputs: one per record, in the order of the list: an array if all have one shape, else a list.
            records: the data set's records that could be read; each has a `target`.
        Returns:
            name -> number, including the score; logged to log.txt as val_NAME.
        Raises:
            ValueError: records and outputs do not fit together.
        """
        raise NotImplementedError

    def after_validation(self, evaluation) -> dict[str, float]:
        """Choose from a validation what predictions need besides weights, such as a threshold, and keep it in buffers.

        Args:
            evaluation: an engines.evaluate.Evaluation of this objective.
        Returns:
            the figures that change with the choice.
        """
        return {}

    def beyond_the_model(self) -> dict[str, Any]:
        """Return plain values that turn outputs of the bare model into predictions, for an exported model."""
        return {}

    def describe(self, figures: dict[str, float]) -> str:
        """Format the metrics for a log line."""
        return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())

    def results(self, evaluation) -> dict[str, Any]:
        """Return further plain values for results.json; `evaluation` is an engines.evaluate.Evaluation."""
        return {}

    def arrays(self, evaluation) -> dict[str, np.ndarray]:
        """Return further arrays for scores.npz, which always contains the line number of each video."""
        return {"outputs": evaluation.outputs} if isinstance(evaluation.outputs, np.ndarray) else {}

    def files(self, evaluation) -> dict[str, Iterable[str]]:
        """Return further text files to write beside results.json: name -> lines without their ends."""
        return {}


class SavedNames:
    """A view of an objective for `create_optimizer`: parameter names as in checkpoints, rules of the model.

    The names are those of the bare model, followed by those of the objective's own parameters.

    Raises:
        ValueError: model and objective use the same name.
    """

    def __init__(self, objective: Objective):
        twice = [name for name, count in Counter(map(saved_name, objective.state_dict())).items() if count > 1]
        if twice:
            raise ValueError(
                f"{type(objective).__name__} and its model both have a {twice[0]}; rename the objective's"
            )
        self._objective = objective

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter with its name in checkpoints."""
        for name, parameter in self._objective.named_parameters():
            yield saved_name(name), parameter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective.model, name)


class Unregistered:
    """A holder that hides a frozen module: it is not trained, saved, averaged or synchronised.

    Copies of the objective share the module.
    """

    def __init__(self, module: nn.Module):
        self.module = module.eval().requires_grad_(False)

    def __deepcopy__(self, _) -> "Unregistered":
        return self


def saved_name(name: str) -> str:
    """Return the checkpoint name of an objective's parameter or buffer."""
    return name.removeprefix(MODEL_PREFIX)


def to_device(targets: Any, device: torch.device) -> Any:
    """Move the tensors in `targets` (a tensor, or nested dicts and lists) to a device; keep everything else."""
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    if isinstance(targets, dict):
        return {name: to_device(value, device) for name, value in targets.items()}
    if isinstance(targets, (list, tuple)):
        return [to_device(value, device) for value in targets]
    return targets


def first_same_view(clips: Tensor) -> list[int]:
    """Find views that show the same pixels in every video of a batch, as all crops of a square frame do.

    Args:
        clips: (videos, views, ...).

    Returns:
        For each view, the number of the first one that is equal to it.
    """
    return [
        next((first for first in range(view) if torch.equal(clips[:, first], clips[:, view])), view)
        for view in range(clips.shape[1])
    ]
