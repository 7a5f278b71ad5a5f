"""The settings of model and data that suit a checkpoint.

In increasing priority: the flags' defaults; the flags of the run that wrote the file, or else the recipe of a
published data set with the same number of classes; a recipe chosen by the caller; the model configuration in the file;
the caller's overrides, which must not contradict the switches that the weights were trained with.
"""

import dataclasses
import difflib
import logging
from collections.abc import Sequence
from typing import Any

from datasets.arguments import DataSettings
from datasets.presets import recipe_of_classes
from engines.checkpoint_flags import SAMPLING_FLAGS, check_overridden, known_sampling, settle
from engines.recipe import load_recipe
from models.arguments import DEFAULT_MODEL, ModelSettings, flagged_settings
from models.checkpoint import CheckpointError
from models.config import Role
from models.describe import CheckpointFacts

_logger = logging.getLogger(__name__)

_OTHER_SAVED_FLAGS = ("crop_pct", "filename_tmpl")


def inference_settings(
    facts: CheckpointFacts,
    recipe: str = "",
    overrides: dict[str, Any] | None = None,
    override_checkpoint: Sequence[str] = (),
    *,
    head: bool = True,
) -> tuple[ModelSettings, DataSettings]:
    """Return the settings of model and data for a checkpoint.

    Args:
        facts: from `describe_checkpoint`.
        recipe: recipe of sampling and views, such as "k400"; empty for the file's own.
        overrides: flags by name that override everything else, such as {"sampling_rate": 8}.
        override_checkpoint: overrides that may contradict a switch that the weights were trained with.
        head: whether the model needs a head.

    Raises:
        CheckpointError: the file has no head and needs one, or has no registered size.
        RecipeError: the recipe does not exist.
        ValueError: an override is not a flag, or contradicts a switch of the file.
    """
    if head and facts.num_classes is None:
        path = facts.path
        raise CheckpointError(f"{path} has no head and so predicts no classes; fine-tune it first (--finetune {path})")
    flags = _default_flags()
    overrides = _known(overrides or {}, flags)

    reading = known_sampling(facts)
    if not reading and not recipe:
        recipe = _guess_recipe(facts, overrides)
    reading |= {name: facts.flags[name] for name in _OTHER_SAVED_FLAGS if facts.flags.get(name) is not None}
    if recipe:
        reading |= {name: value for name, value in load_recipe(recipe).flags.items() if name in SAMPLING_FLAGS}
    if facts.is_image_model:
        reading["num_frames"] = 1
    check_overridden(override_checkpoint)
    flags |= reading | overrides | {"override_checkpoint": override_checkpoint}
    # Position embeddings are interpolated, so other numbers of frames and resolutions are possible.
    adapted = {name: overrides[name] for name in ("num_frames", "input_size") if name in overrides}
    settle(flags, overrides.keys() - adapted.keys(), facts, {Role.SIZE, Role.SWITCH})
    flags |= adapted
    flags["nb_classes"] = flags["nb_classes"] or facts.num_classes or 0
    flags["short_side_size"] = None  # as large as the crops
    model = {setting.name: flags.get(setting.flag) for setting in flagged_settings()}
    data = {field.name: flags[field.name] for field in dataclasses.fields(DataSettings)}
    return ModelSettings(flags["model"], {k: v for k, v in model.items() if v is not None}), DataSettings(**data)


def _default_flags() -> dict[str, Any]:
    """Return the flags of a classifier and of its data with their defaults."""
    settings = [setting for setting in flagged_settings() if not setting.detector]
    model = {setting.flag: None if setting.by_name else setting.default for setting in settings}
    return {"model": DEFAULT_MODEL} | model | vars(DataSettings())


def _known(overrides: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Return the overrides that are set; raise a ValueError for one that is not a flag."""
    for name in overrides:
        if name not in flags:
            near = difflib.get_close_matches(name, flags, n=1)
            raise ValueError(f"{name} is not a flag of model or data{f'; did you mean {near[0]}?' if near else ''}")
    return {name: value for name, value in overrides.items() if value is not None}


def _guess_recipe(facts: CheckpointFacts, overrides: dict[str, Any]) -> str:
    """Return the recipe of a published data set with the same number of classes, or empty; warn in both cases."""
    recipe = recipe_of_classes(overrides.get("nb_classes") or facts.num_classes)
    _logger.warning(
        "%s does not record how its frames were sampled; for its %s classes, %s is used; change this with --recipe, "
        "--sampling and --sampling_rate",
        facts.path,
        facts.num_classes or "unknown",
        f"the sampling of recipe {recipe}" if recipe else "dense sampling of every 4th frame",
    )
    return recipe
