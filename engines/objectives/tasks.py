"""The objective of each --task: for training, for a test, and of a checkpoint."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from datasets.labels import LabelTask
from engines.loss_settings import LossSettings
from engines.objectives.base import Objective
from engines.objectives.classification import Classification
from engines.objectives.multilabel import Multilabel
from engines.objectives.regression import Regression
from models.checkpoint import CheckpointError
from models.describe import CheckpointFacts


def create_objective(
    task: LabelTask,
    model: nn.Module,
    outputs: int,
    settings: LossSettings | None = None,
    *,
    targets: Sequence[Any] = (),
    names: Sequence[str] | None = None,
    view_merge: str = "mean",
) -> Objective:
    """Create the objective of a task.

    Args:
        task: Task of the run.
        model: Clips (N, C, T, H, W) -> (N, outputs).
        outputs: Number of classes or targets.
        settings: Settings of the training loss; None for testing only.
        targets: Targets of the training clips; empty for testing only.
        names: Names of the classes or targets; None for none.
        view_merge: "mean" or "max", see `Multilabel`.

    Raises:
        ValueError: Settings contradict each other, or there is nothing to learn.
    """
    if task == "regression":
        return Regression(model, outputs, settings, targets=targets, target_names=names)
    if task == "multilabel":
        objective = Multilabel(model, outputs, settings, view_merge=view_merge, class_names=names)
        if targets:
            objective.expect(targets)
        return objective
    return Classification(model, outputs, settings, labels=targets, class_names=names)


def take_from_checkpoint(objective: Objective, facts: CheckpointFacts) -> None:
    """Load what an objective keeps beside the weights of its model: statistics of targets, a threshold.

    Raises:
        CheckpointError: The file does not have it, because its run had another task.
    """
    own = {name for name, _ in objective.named_buffers(recurse=False)}
    missing = sorted(own - facts.beside.keys())
    if missing:
        raise CheckpointError(f"{facts.path} has no {', '.join(missing)}; its run had another --task than this one")
    objective.load_state_dict({name: facts.beside[name] for name in own}, strict=False)
