"""From settings, or from what a file says, to a model with its initial weights."""

from typing import Any

import timm

from models.arguments import ModelSettings, WeightSettings
from models.checkpoint import LoadReport, load_checkpoint
from models.describe import CheckpointFacts
from models.videomambapro import VideoMambaPro, registered_names


def build_model(settings: ModelSettings, num_classes: int, **overrides: Any) -> VideoMambaPro:
    """Build the model with `num_classes` outputs.

    Args:
        settings: name and fields.
        num_classes: outputs of the head.
        overrides: fields of `ModelConfig` that win over the settings.

    Raises:
        ValueError: no model of that name is registered, or its settings contradict each other.
    """
    known = registered_names()
    if settings.name not in known:
        raise ValueError(f"--model {settings.name!r} is not registered; known are: {', '.join(known)}")
    return _create(settings.name, settings.fields | {"num_classes": num_classes} | overrides)


def load_finetune_checkpoint(model: VideoMambaPro, settings: WeightSettings) -> LoadReport | None:
    """Load the weights to start from, where there are any.

    Raises:
        FileNotFoundError, CheckpointError: see `load_checkpoint`.
    """
    if not settings.finetune or settings.resume:
        return None
    return load_checkpoint(
        model,
        settings.finetune,
        require_head=settings.eval,
        without_head=settings.delete_head,
        allow_random=settings.allow_random,
        overridden=settings.override_checkpoint,
    )


def build_described(facts: CheckpointFacts, **changes: Any) -> VideoMambaPro:
    """Build the network that a file describes, with its initial weights.

    Args:
        facts: what `describe_checkpoint` found.
        changes: fields of `ModelConfig` that win, such as another number of frames or the backend.

    Raises:
        CheckpointError: neither the file nor a registered model of its size tells its switches.
    """
    facts.require_switches()
    fields = facts.network | changes
    return _create(facts.model, fields) if facts.model else VideoMambaPro(**fields)


def _create(name: str, fields: dict[str, Any]) -> VideoMambaPro:
    model: Any = timm.create_model(name, **fields)
    return model
