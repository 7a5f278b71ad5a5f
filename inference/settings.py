"""How a checkpoint wants its videos read: model, frames, sampling and views, as the flags of a run.

What is known, the later winning: the flags' defaults; the flags of the run that wrote the file, or else the recipe of
a published data set with as many classes; a recipe that is named; what the tensors say; what the caller says.
"""

import argparse
import difflib
import logging
from pathlib import Path
from typing import Any

from datasets.arguments import add_data_arguments
from engines.recipe import RECIPE_OF_CLASSES, load_recipe
from models.arguments import add_model_arguments
from models.checkpoint import CheckpointError
from models.describe import TOLD_BY_FLAGS, CheckpointFacts

_logger = logging.getLogger(__name__)

SAMPLING_FLAGS = ("data_set", "sampling", "num_frames", "sampling_rate", "test_num_segment", "test_num_crop")
"""The flags that say which frames and views a test reads; checkpoints of our own runs and recipes hold them."""
_OF_THE_RUN = (*SAMPLING_FLAGS, "crop_pct", "filename_tmpl", "bimamba_type", *TOLD_BY_FLAGS)


def inference_settings(
    facts: CheckpointFacts, path: str | Path, recipe: str = "", overrides: dict[str, Any] | None = None
) -> argparse.Namespace:
    """The flags of model and data that suit the checkpoint `path`.

    Args:
        facts: what `describe_checkpoint` read off it.
        recipe: whose sampling and views to take, such as "k400"; empty for the file's own.
        overrides: flags by name that win over everything, such as {"sampling_rate": 8}.

    Raises:
        CheckpointError: the file has no head, or is of no registered size.
        RecipeError: there is no such recipe.
        ValueError: an override is none of the flags.
    """
    if facts.num_classes is None:
        raise CheckpointError(f"{path} has no head, so it tells no classes; fine-tune it first (--finetune {path})")
    if facts.model is None:
        raise CheckpointError(f"{path} is {facts.embed_dim} x {facts.depth}, none of the registered sizes")
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    add_data_arguments(parser)
    args = parser.parse_args([])
    overrides = _known(overrides or {}, args)

    settings = {name: facts.flags[name] for name in _OF_THE_RUN if facts.flags.get(name) is not None}
    if not facts.flags and not recipe:
        recipe = _guess_recipe(facts, path, overrides)
    if recipe:
        settings |= {name: value for name, value in load_recipe(recipe).flags.items() if name in SAMPLING_FLAGS}
    settings |= _read_off(facts) | overrides
    for name, value in settings.items():
        setattr(args, name, value)
    # The test's crops are as large as the short side.
    args.short_side_size = args.input_size
    return args


def _known(overrides: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    for name in overrides:
        if name not in args:
            near = difflib.get_close_matches(name, vars(args), n=1)
            raise ValueError(f"{name} is no flag of model or data{f'; did you mean {near[0]}?' if near else ''}")
    return {name: value for name, value in overrides.items() if value is not None}


def _guess_recipe(facts: CheckpointFacts, path: str | Path, overrides: dict[str, Any]) -> str:
    """The recipe of the published data set with as many classes; empty for none, with a warning either way."""
    recipe = RECIPE_OF_CLASSES.get(overrides.get("nb_classes") or facts.num_classes, "")
    _logger.warning(
        "%s does not say how its frames were sampled; it has %d classes and is read %s; --recipe, --sampling and "
        "--sampling_rate say otherwise",
        path,
        facts.num_classes,
        f"as recipe {recipe} does" if recipe else "densely, every 4th frame",
    )
    return recipe


def _read_off(facts: CheckpointFacts) -> dict[str, Any]:
    """What the tensors say, by flag; an image model is given clips of one frame."""
    told = {
        "model": facts.model,
        "num_frames": 1 if facts.is_image_model else facts.num_frames,
        "input_size": facts.input_size,
        "tubelet_size": facts.tubelet_size,
        "nb_classes": facts.num_classes,
    }
    return {name: value for name, value in told.items() if value is not None}
