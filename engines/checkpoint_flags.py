"""Evaluating a checkpoint without saying what it is: flags that the file itself answers."""

import argparse
import logging
from collections.abc import Set

from datasets.presets import get_preset
from models.checkpoint import KINETICS_710_TO_400
from models.describe import TOLD_BY_FLAGS, CheckpointFacts, describe_checkpoint

_logger = logging.getLogger(__name__)


def settle_from_checkpoint(args: argparse.Namespace, given: Set[str]) -> None:
    """With --eval --finetune FILE, set the flags that nobody gave to what the file says, and log them.

    Model, type, frames, resolution, tubelet and number of classes; for a file of this repository's own runs the
    switches of the method and the names of the classes too. The file that is named is the one to test, whatever lies
    in --output_dir.

    Args:
        args: changed in place.
        given: destinations that the command line, a recipe or saved settings gave.
    Raises:
        FileNotFoundError, CheckpointError: as `describe_checkpoint`.
        ValueError: a given flag contradicts the file.
    """
    if not (args.eval and args.finetune):
        return
    if not args.resume:
        args.auto_resume = args.test_best = False
    facts = describe_checkpoint(args.finetune)
    answers = _answers(facts, args, given)
    contradictions = [
        f"--{name} {getattr(args, name)}, the file has {value}"
        for name, value in answers.items()
        if name in given and not _agrees(name, getattr(args, name), value)
    ]
    if contradictions:
        raise ValueError(
            f"{args.finetune} contradicts the flags: {'; '.join(contradictions)}; leave them out and the "
            "file answers, or evaluate another file"
        )
    settled = {name: value for name, value in answers.items() if name not in given and value != getattr(args, name)}
    for name, value in settled.items():
        setattr(args, name, value)
    if settled:
        _logger.info("%s says: %s", args.finetune, ", ".join(f"--{name} {value}" for name, value in settled.items()))
    names = facts.flags.get("class_names")
    if names and not args.class_names:
        # fewer classes than the file's are its first ones: Kinetics-400 by a head for Kinetics-710
        args.class_names = names[: args.nb_classes or None]


def _answers(facts: CheckpointFacts, args: argparse.Namespace, given: Set[str]) -> dict:
    """What the file says, by flag."""
    answers = {
        "model": facts.model,
        "num_frames": facts.num_frames,
        "input_size": facts.input_size,
        "tubelet_size": facts.tubelet_size,
    }
    if "model" in given:
        # A name says no more than size and type; the tensors are compared when they are loaded.
        del answers["model"]
    if "short_side_size" not in given:
        answers["short_side_size"] = facts.input_size
    if not get_preset(args.data_set).num_classes:
        answers["nb_classes"] = facts.num_classes
    answers |= {name: facts.flags.get(name) for name in TOLD_BY_FLAGS}
    if facts.flags.get("bimamba_type"):
        answers["bimamba_type"] = facts.flags["bimamba_type"]
    return {name: value for name, value in answers.items() if value is not None}


def _agrees(name: str, given, told) -> bool:
    """Whether a given flag and the file fit each other."""
    return given == told or (name == "nb_classes" and (told, given) == KINETICS_710_TO_400)
