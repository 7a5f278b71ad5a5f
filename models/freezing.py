"""Freezing of a model's first layers, which then need neither gradients nor moments."""

import logging
from typing import Any

from timm.models import group_parameters

from models.arguments import ALL, STEM
from models.checkpoint import MAY_STAY_INITIAL, LoadReport
from models.checkpoint_file import bare_name

_logger = logging.getLogger(__name__)


def trained_share(model: Any) -> float:
    """Return the share of a model's blocks that a backward pass goes through: those above the frozen ones."""
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in model.layers]
    return sum(trained) / len(trained)


def freeze_layers(model: Any, part: str, weights: LoadReport | None = None) -> list[str]:
    """Exclude the first layers of a model from training.

    Args:
        model: Model with `layers` and timm's `group_matcher()`.
        part: "stem": embeddings and positions; a number N: also the first N blocks; "all": also the last norm, so that
            only the head is trained.
        weights: What was loaded into the model; None if a resumed checkpoint will provide its weights.

    Returns:
        names of the frozen parameters.

    Raises:
        ValueError: The model has fewer blocks, has nothing else to train, or a frozen parameter would stay random.
    """
    depth = len(model.layers)
    if part not in (STEM, ALL) and int(part) > depth:
        raise ValueError(f"--freeze {part}: the model has {depth} blocks; --freeze {ALL} trains the head alone")
    last = {STEM: 0, ALL: depth}[part] if part in (STEM, ALL) else int(part)
    layer_of: Any = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    names = [name for name, _ in model.named_parameters() if layer_of[name] <= last]
    if len(names) == len(list(model.parameters())):
        raise ValueError(f"--freeze {part} leaves nothing to train")
    missing = set(weights.names("initialised")) if weights else set()
    initial = [name for name in map(bare_name, names) if name in missing]
    if random := [name for name in initial if not name.startswith(MAY_STAY_INITIAL)]:
        raise ValueError(f"--freeze {part}: {random[0]} is not in --finetune and would stay random")
    if initial:
        _logger.warning("--freeze %s: %s is not in --finetune and stays at its initial value", part, initial[0])
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    count = sum(model.get_parameter(name).numel() for name in names)
    total = sum(parameter.numel() for parameter in model.parameters())
    _logger.info("--freeze %s: %.1f of %.1f M parameters are frozen", part, count / 1e6, total / 1e6)
    return names
