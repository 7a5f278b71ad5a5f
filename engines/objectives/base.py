"""The interface between the engine and a task: what a run learns, and how a test of it is judged."""

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
    """The figure that chooses the best checkpoint.

    Attributes:
        name: key of `Objective.figures`.
        higher_is_better: direction; False for an error or a loss.
    """

    name: str
    higher_is_better: bool = True

    def is_better(self, value: float, than: float | None) -> bool:
        """Tell whether `value` is strictly better than `than` (None: than nothing); nan never is."""
        if than is None:
            return not math.isnan(value)
        return value > than if self.higher_is_better else value < than


class Objective(nn.Module):
    """A model together with its loss and the way it is judged.

    The training loop, evaluation, checkpoints and logs know nothing else of a task. A subclass must define `forward`
    and `figures`; everything else has a default for tasks with one output per clip.

    Parameters of its own (heads, a decoder) are registered as usual: they are optimised, averaged, saved and exchanged
    between processes with those of the model. A frozen teacher belongs in `Unregistered`.

    Attributes:
        model: the network; its parameters keep their names in a checkpoint.
        score: figure that chooses the best checkpoint; None: there is none.
    """

    score: Score | None = None

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def count(self, batch: dict) -> int:
        """Return the number of things (clips, boxes, tokens) that the loss of a loader's batch is a mean over."""
        return len(batch["clips"])

    def prepare(self, batch: dict, device: torch.device) -> dict:
        """Bring what `forward` reads of a loader's batch to the device.

        Everything random or not made of tensors (mixing, drawing masks) belongs here: `forward` may be compiled.

        Args:
            batch: clips and targets as in datasets/collate.py, among other things.
            device: of the model.
        """
        return {"clips": clips_on(device, batch), "targets": to_device(batch["targets"], device)}

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the loss of a prepared batch. Autocast is on where the run computes in bfloat16.

        Returns:
            "loss" and any further scalars to log, each a mean over the things that `count` counts, and 0 where there
            are none. The engine weighs them by that count, over accumulated batches and processes.
        """
        raise NotImplementedError

    def predict(self, clips: Tensor) -> Tensor:
        """Return the outputs (n, ...) of single views (n, C, T, H, W), float32."""
        return self.model(clips).float()

    def merge_views(self, outputs: Tensor) -> Tensor:
        """Reduce outputs (videos, views, ...) to one of each video (videos, ...); the default is their mean."""
        return outputs.mean(1)

    def outputs(self, batch: dict, device: torch.device, *, clips_per_forward: int) -> Sequence | np.ndarray:
        """Return an output for each video of a batch, as an array or anything picklable that `figures` understands.

        Every forward pass goes through `predict`, which a sharded model is prepared for; an override may hand it more
        than clips, such as the boxes among the targets.

        Args:
            batch: clips (videos, C, T, H, W) or (videos, views, C, T, H, W), normalised or uint8.
            device: of the model.
            clips_per_forward: most clips in one forward pass, which bounds the memory whatever the number of views.
        """
        clips = batch["clips"]
        clips = clips.unsqueeze(1) if clips.dim() == 5 else clips
        parts = clips.flatten(0, 1).split(clips_per_forward)
        outputs = torch.cat([self.predict(finish(part.to(device, non_blocking=True))) for part in parts])
        return self.merge_views(outputs.unflatten(0, clips.shape[:2])).cpu().numpy()

    def figures(self, outputs: np.ndarray | list, records: Sequence) -> dict[str, float]:
        """Judge a test or a validation.

        Args:
            outputs: one for each record, in the order of the list: an array where all have one shape, else a list.
            records: of the data set, those that could be read; each has a `target`.
        Returns:
            name -> number, the score among them; they reach log.txt as val_NAME.
        Raises:
            ValueError: records and outputs do not fit together.
        """
        raise NotImplementedError

    def describe(self, figures: dict[str, float]) -> str:
        """Say the figures in a log line."""
        return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())

    def results(self, evaluation) -> dict[str, Any]:
        """Return what results.json holds beyond the figures, as plain values; see engines.evaluate.Evaluation."""
        return {}

    def arrays(self, evaluation) -> dict[str, np.ndarray]:
        """Return what scores.npz holds beside the line of each video."""
        return {"outputs": evaluation.outputs} if isinstance(evaluation.outputs, np.ndarray) else {}

    def files(self, evaluation) -> dict[str, Iterable[str]]:
        """Return further text files to write beside results.json: name -> lines without their ends."""
        return {}


class SavedNames:
    """An objective's parameters under the names of a checkpoint, with the model's rules for the optimiser.

    These are the names of the bare model, followed by those of the objective's own parameters.

    Raises:
        ValueError: model and objective use the same name.
    """

    def __init__(self, objective: Objective):
        twice = [name for name, count in Counter(map(saved_name, objective.state_dict())).items() if count > 1]
        if twice:
            raise ValueError(f"{type(objective).__name__} and its model both have a {twice[0]}; rename its own")
        self._objective = objective

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter with its name in a checkpoint."""
        for name, parameter in self._objective.named_parameters():
            yield saved_name(name), parameter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective.model, name)


class Unregistered:
    """Holds a module without registering it: it is neither trained, saved, averaged nor sent to other processes.

    Copies of the objective share it.
    """

    def __init__(self, module: nn.Module):
        self.module = module.eval().requires_grad_(False)

    def __deepcopy__(self, _) -> "Unregistered":
        return self


def saved_name(name: str) -> str:
    """Return the name in a checkpoint of an objective's parameter or buffer."""
    return name.removeprefix(MODEL_PREFIX)


def to_device(targets: Any, device: torch.device) -> Any:
    """Move the tensors in `targets` (a tensor, or dicts and lists of them) to a device; leave the rest alone."""
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    if isinstance(targets, dict):
        return {name: to_device(value, device) for name, value in targets.items()}
    if isinstance(targets, (list, tuple)):
        return [to_device(value, device) for value in targets]
    return targets
