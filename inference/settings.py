"""How a checkpoint wants its videos read: model, frames, sampling and views, as the flags of a run.

What is known, the later winning: the flags' defaults; the flags of the run that wrote the file, or else the recipe of
a published data set with as many classes; a recipe that is named; what the file says of its network; what the caller
says, which must not contradict the switches that the weights were trained with.
"""

import argparse
import difflib
import logging
from collections.abc import Sequence
from typing import Any

from common.flag_parser import FlagParser
from datasets.arguments import DataSettings, add_data_arguments
from datasets.presets import recipe_of_classes
from engines.checkpoint_flags import SAMPLING_FLAGS, check_overridden, known_sampling, settle
from engines.recipe import load_recipe
from models.arguments import add_model_arguments
from models.checkpoint import CheckpointError
from models.config import Role
from models.describe import CheckpointFacts

_logger = logging.getLogger(__name__)

_OF_THE_RUN = ("crop_pct", "filename_tmpl")


def inference_settings(
    facts: CheckpointFacts,
    recipe: str = "",
    overrides: dict[str, Any] | None = None,
    override_checkpoint: Sequence[str] = (),
) -> tuple[argparse.Namespace, DataSettings]:
    """The flags of the model and the settings of the data that suit a checkpoint.

    Args:
        facts: what `describe_checkpoint` read off it.
        recipe: whose sampling and views to take, such as "k400"; empty for the file's own.
        overrides: flags by name that win over everything, such as {"sampling_rate": 8}.
        override_checkpoint: those of them that may contradict a switch that the weights were trained with.

    Raises:
        CheckpointError: the file has no head, or is of no registered size.
        RecipeError: there is no such recipe.
        ValueError: an override is none of the flags, or contradicts a switch of the file.
    """
    if facts.num_classes is None:
        path = facts.path
        raise CheckpointError(f"{path} has no head, so it tells no classes; fine-tune it first (--finetune {path})")
    parser = FlagParser()
    add_model_arguments(parser)
    add_data_arguments(parser)
    args = parser.parse_args([])
    overrides = _known(overrides or {}, args)

    told = known_sampling(facts)
    if not told and not recipe:
        recipe = _guess_recipe(facts, overrides)
    told |= {name: facts.flags[name] for name in _OF_THE_RUN if facts.flags.get(name) is not None}
    if recipe:
        told |= {name: value for name, value in load_recipe(recipe).flags.items() if name in SAMPLING_FLAGS}
    if facts.is_image_model:
        told["num_frames"] = 1
    for name, value in (told | overrides).items():
        setattr(args, name, value)
    check_overridden(override_checkpoint)
    args.override_checkpoint = override_checkpoint
    # Positions are interpolated, so a file serves other frames and resolutions than its own.
    adapted = {name: overrides[name] for name in ("num_frames", "input_size") if name in overrides}
    settle(vars(args), overrides.keys() - adapted.keys(), facts, {Role.SIZE, Role.SWITCH})
    for name, value in adapted.items():
        setattr(args, name, value)
    args.nb_classes = args.nb_classes or facts.num_classes
    args.short_side_size = None  # as large as the crops
    return args, DataSettings.from_flags(args)


def _known(overrides: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    for name in overrides:
        if name not in args:
            near = difflib.get_close_matches(name, vars(args), n=1)
            raise ValueError(f"{name} is no flag of model or data{f'; did you mean {near[0]}?' if near else ''}")
    return {name: value for name, value in overrides.items() if value is not None}


def _guess_recipe(facts: CheckpointFacts, overrides: dict[str, Any]) -> str:
    """The recipe of the published data set with as many classes; empty for none, with a warning either way."""
    recipe = recipe_of_classes(overrides.get("nb_classes") or facts.num_classes)
    _logger.warning(
        "%s does not say how its frames were sampled; it has %d classes and is read %s; --recipe, --sampling and "
        "--sampling_rate say otherwise",
        facts.path,
        facts.num_classes,
        f"as recipe {recipe} does" if recipe else "densely, every 4th frame",
    )
    return recipe
