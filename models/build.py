"""Build a model from settings or from the description of a checkpoint, and load its initial weights.

A model is a classifier of clips or, if its configuration has a `time_pool`, an action detector.
"""

import logging
from typing import Any

import timm

from models.arguments import ModelSettings, WeightSettings
from models.checkpoint import LoadReport, load_checkpoint
from models.describe import CheckpointFacts
from models.detection import ActionDetector
from models.freezing import freeze_layers
from models.videomambapro import VideoMambaPro, registered_names

_logger = logging.getLogger(__name__)


def build_model(settings: ModelSettings, num_classes: int, **overrides: Any) -> Any:
    """Build the model with `num_classes` outputs.

    Args:
        settings: Name and fields.
        num_classes: Number of outputs of the head.
        overrides: Fields of `ModelConfig` that take precedence over the settings.

    Returns:
        a `VideoMambaPro` or an `ActionDetector`.
    Raises:
        ValueError: No model of that name is registered, or its settings contradict each other.
    """
    known = registered_names()
    if settings.name not in known:
        raise ValueError(f"--model {settings.name!r} is not registered; choose from {', '.join(known)}")
    return _create(settings.name, settings.fields | {"num_classes": num_classes} | overrides)


def load_finetune_checkpoint(model: VideoMambaPro | ActionDetector, settings: WeightSettings) -> LoadReport | None:
    """Load the initial weights if the settings name a file, and freeze the layers that are not to be trained.

    A stem has the weights of its image model, unless a checkpoint brings them.

    Raises:
        FileNotFoundError, CheckpointError: see `load_checkpoint` and `ImageStem.load`.
        OSError: timm cannot download the weights of the stem.
        ValueError: weights of a stem are given without a stem, layers would be frozen without trained weights, or as
            `freeze_layers`.
    """
    report = None
    backbone: Any = getattr(model, "backbone", model)
    stem, checkpoint = backbone.patch_embed.stem, settings.finetune or settings.resume
    if settings.stem_weights and not stem:
        raise ValueError("--stem_weights are weights of a stem, and the model has none; add --stem NAME")
    if stem and not checkpoint:
        stem.load(settings.stem_weights)
    elif settings.stem_weights:
        _logger.info("--stem_weights is not read: %s contains the stem", checkpoint)
    if settings.finetune and not settings.resume:
        report = load_checkpoint(
            model,
            settings.finetune,
            require_head=settings.eval,
            without_head=settings.delete_head,
            allow_random=settings.allow_random,
            overridden=settings.override_checkpoint,
        )
    if settings.freeze and not settings.eval:
        if not (settings.finetune or settings.resume):
            raise ValueError(f"--freeze {settings.freeze} would freeze random weights; add --finetune FILE")
        freeze_layers(model, settings.freeze, report)
    return report


def build_described(facts: CheckpointFacts, **changes: Any) -> Any:
    """Build the model described by a checkpoint, with randomly initialised weights.

    Args:
        facts: Result of `describe_checkpoint`.
        changes: Fields of `ModelConfig` to change, such as the number of frames or the backend.

    Returns:
        a `VideoMambaPro` or an `ActionDetector`.
    Raises:
        CheckpointError: The switches are neither in the file nor those of a registered model of its size.
    """
    facts.require_switches()
    return _create(facts.model, facts.network | changes)


def _create(name: str | None, fields: dict[str, Any]) -> Any:
    """Build a registered model, or one of the sizes in `fields`."""
    time_pool, num_classes = fields.pop("time_pool", ""), fields["num_classes"]
    if time_pool:
        fields["num_classes"] = 0
    model: Any = timm.create_model(name, **fields) if name else VideoMambaPro(**fields)
    return ActionDetector(model, num_classes, time_pool) if time_pool else model
