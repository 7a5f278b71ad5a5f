"""What a checkpoint says of itself, settled with the flags: for training, evaluation and inference alike.

A flag that nobody gave is the file's. One that is given and contradicts the file is an error, unless
--override_checkpoint names it.
"""

import logging
from collections.abc import Collection, Set
from typing import Any

from datasets.presets import PRESETS, get_preset
from models.arguments import flagged_settings
from models.checkpoint import KINETICS_710_TO_400
from models.config import Role
from models.describe import CheckpointFacts, contradiction, describe_checkpoint, describe_metadata
from models.videomambapro import registered_config

_logger = logging.getLogger(__name__)

SAMPLINGS = {preset.sampling for preset in PRESETS.values()}
SAMPLING_FLAGS = ("data_set", "sampling", "num_frames", "sampling_rate", "test_num_segment", "test_num_crop")
"""The flags that say which frames and views a test reads; checkpoints of our own runs and recipes hold them."""


def settle_from_checkpoint(flags: dict[str, Any], given: Set[str]) -> None:
    """Settle the flags of a run with the file that it resumes, evaluates or starts from, and log what the file says.

    With --eval the file answers everything: model, sizes, switches, number and names of the classes; it is the file to
    test, whatever lies in --output_dir. A training asks for the sizes it wants, and the file answers the switches that
    no tensor tells.

    Args:
        flags: changed in place.
        given: destinations that the command line, a recipe or saved settings gave.
    Raises:
        FileNotFoundError, CheckpointError: as `describe_checkpoint`.
        ValueError: a given flag contradicts the file, or --override_checkpoint names none of the flags.
    """
    check_overridden(flags["override_checkpoint"])
    path = flags["resume"] or flags["finetune"]
    if not path:
        return
    if not flags["eval"]:
        _log(path, settle(flags, given, describe_metadata(path), {Role.SWITCH}))
        return
    if not flags["resume"]:
        flags["auto_resume"] = flags["test_best"] = False
    facts = describe_checkpoint(path)
    _log(path, settle(flags, given, facts, {Role.SIZE, Role.SWITCH}))
    _warn_of_other_sampling(facts, flags)
    names = facts.flags.get("class_names")
    if names and not flags["class_names"]:
        # fewer classes than the file's are its first ones: Kinetics-400 by a head for Kinetics-710
        flags["class_names"] = names[: flags["nb_classes"] or None]


def check_overridden(names: Collection[str]) -> None:
    """Raise the ValueError that lists what can be overridden, unless all `names` are of it."""
    known = {setting.flag for setting in flagged_settings() if setting.role is not Role.FREE}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--override_checkpoint {' '.join(unknown)}: there are {', '.join(sorted(known))}")


def settle(flags: dict[str, Any], given: Set[str], facts: CheckpointFacts, roles: Set[Role]) -> dict[str, Any]:
    """Set the flags that nobody gave to what the file says, and compare those that were given.

    Args:
        flags: flags of model and data, and override_checkpoint; changed in place.
        given: destinations that somebody gave.
        facts: what the file says.
        roles: of the fields of `ModelConfig` that the file answers.

    Returns:
        the flags that were set to another value than they had.

    Raises:
        CheckpointError: the file is of no registered size and does not say its switches.
        ValueError: a given flag contradicts the file.
    """
    answers = _answers(facts, flags, given, roles)
    wanted = _by_name(flags, given) | {name: flags[name] for name in answers if name in given}
    differing = {
        name: value for name, value in wanted.items() if name in answers and not _agrees(name, value, answers)
    }
    model = flags["model"]
    words = [
        f"--{name} {value}{'' if name in given else f' by --model {model}'}, the file has {answers[name]}"
        for name, value in differing.items()
    ]
    refused = [word for word, name in zip(words, differing, strict=True) if name not in flags["override_checkpoint"]]
    if refused:
        raise ValueError(contradiction(facts.path, refused))
    if words:
        _logger.warning("%s is overridden by name: %s", facts.path, "; ".join(words))
    kept = given | differing.keys() | set(flags["override_checkpoint"])
    meant = _registered_flags(answers.get("model", flags["model"])) | {n: v for n, v in flags.items() if v is not None}
    settled = {name: value for name, value in answers.items() if name not in kept and value != meant.get(name)}
    flags.update(settled)
    return settled


def _answers(facts: CheckpointFacts, flags: dict[str, Any], given: Set[str], roles: Set[Role]) -> dict[str, Any]:
    """What the file says, by flag."""
    settings = {setting.name: setting for setting in flagged_settings() if setting.role in roles}
    answers = {settings[name].flag: value for name, value in facts.config.items() if name in settings}
    if Role.SIZE not in roles:
        return answers
    facts.require_switches()
    if get_preset(flags["data_set"]).num_classes or not facts.num_classes:
        answers.pop("nb_classes", None)
    if "model" not in given and facts.model:
        # A name that is given says no more than sizes and switches, and those are compared.
        answers = {"model": facts.model} | answers
    if "img_size" in facts.config and "short_side_size" not in given:
        answers["short_side_size"] = facts.config["img_size"]
    return answers


def _by_name(flags: dict[str, Any], given: Set[str]) -> dict[str, Any]:
    """The flags that a given --model stands for: its sizes, and the switches that it has of its own."""
    if "model" not in given:
        return {}
    registered = _registered_flags(flags["model"])
    return {
        setting.flag: registered[setting.flag]
        for setting in flagged_settings()
        if setting.flag in registered.keys() - given
        and (setting.role is Role.SIZE or registered[setting.flag] != setting.default)
    }


def _registered_flags(model: str) -> dict[str, Any]:
    """What the flags mean that are left to the registered model; nothing for a name that is none."""
    config = registered_config(model)
    if config is None:
        return {}
    return {setting.flag: getattr(config, setting.name) for setting in flagged_settings() if setting.by_name}


def _agrees(name: str, wanted: Any, answers: dict[str, Any]) -> bool:
    """Whether a wanted value and the file's fit each other."""
    told = answers[name]
    return wanted == told or (name == "nb_classes" and (told, wanted) == KINETICS_710_TO_400)


def known_sampling(facts: CheckpointFacts) -> dict[str, Any]:
    """The sampling flags that the run of a file had, as far as they mean something here."""
    told = {name: facts.flags[name] for name in SAMPLING_FLAGS if facts.flags.get(name) is not None}
    if str(told.get("data_set")).lower() not in {name.lower() for name in PRESETS}:
        told.pop("data_set", None)
    if told.get("sampling") not in SAMPLINGS:
        told.pop("sampling", None)
    return told


def _log(path: str, settled: dict[str, Any]) -> None:
    if settled:
        _logger.info("%s says: %s", path, ", ".join(f"--{name} {value}" for name, value in settled.items()))


def _warn_of_other_sampling(facts: CheckpointFacts, flags: dict[str, Any]) -> None:
    """Name the frames and views that differ from those of the run that wrote the file."""
    told = known_sampling(facts)
    theirs = {name: value for name, value in told.items() if name != "data_set"}
    ours = {name: flags[name] for name in theirs}
    if "data_set" in told:
        theirs["sampling"] = told.get("sampling") or get_preset(told["data_set"]).sampling
    ours["sampling"] = flags["sampling"] or get_preset(flags["data_set"]).sampling
    differing = [f"--{name} {theirs[name]} -> {ours[name]}" for name in theirs if theirs[name] != ours[name]]
    if differing:
        _logger.warning("%s is evaluated on other frames or views than its run: %s", facts.path, ", ".join(differing))
