"""Build a model from settings or from the description of a checkpoint, and load its initial weights."""

from typing import Any

import timm

from models.arguments import ModelSettings, WeightSettings
from models.checkpoint import LoadReport, load_checkpoint
from models.describe import CheckpointFacts
from models.videomambapro import VideoMambaPro, registered_names


def build_model(settings: ModelSettings, num_classes: int, **overrides: Any) -> VideoMambaPro:
    """Build the model with `num_classes` outputs.

    Args:
        settings: Name and fields.
        num_classes: Number of outputs of the head.
        overrides: Fields of `ModelConfig` that take precedence over the settings.

    Raises:
        ValueError: No model of that name is registered, or its settings contradict each other.
    """
    known = registered_names()
    if settings.name not in known:
        raise ValueError(f"--model {settings.name!r} is not registered; choose from {', '.join(known)}")
    return _create(settings.name, settings.fields | {"num_classes": num_classes} | overrides)


def load_finetune_checkpoint(model: VideoMambaPro, settings: WeightSettings) -> LoadReport | None:
    """Load the initial weights if the settings name a file.

    Raises:
        FileNotFoundError, CheckpointError: see `load_checkpoint`.
    """
    if not settings.finetune or settings.resume:
        return None
    return load_checkpoint(
        model,
        settings.finetune,
        require_head=settings.eval,
        allow_random=settings.allow_random,
        overridden=settings.override_checkpoint,
    )


def build_described(facts: CheckpointFacts, **changes: Any) -> VideoMambaPro:
    """Build the model described by a checkpoint, with randomly initialised weights.

    Args:
        facts: Result of `describe_checkpoint`.
        changes: Fields of `ModelConfig` to change, such as the number of frames or the backend.

    Raises:
        CheckpointError: The switches are neither in the file nor those of a registered model of its size.
    """
    facts.require_switches()
    fields = facts.network | changes
    return _create(facts.model, fields) if facts.model else VideoMambaPro(**fields)


def _create(name: str, fields: dict[str, Any]) -> VideoMambaPro:
    model: Any = timm.create_model(name, **fields)
    return model
