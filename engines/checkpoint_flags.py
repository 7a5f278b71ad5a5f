"""Reconciling the flags with the configuration stored in a checkpoint, for training, evaluation and inference.

A flag that was not set explicitly takes the checkpoint's value. An explicit flag that contradicts the checkpoint is an
error unless --override_checkpoint names it.
"""

import logging
from collections.abc import Collection, Set
from typing import Any

from common.settings import as_typed
from datasets.presets import PRESETS, find_preset, get_preset
from models.arguments import flagged_settings
from models.checkpoint import KINETICS_710_TO_400
from models.config import Role
from models.describe import CheckpointFacts, contradiction, describe_checkpoint, describe_metadata
from models.videomambapro import registered_config

_logger = logging.getLogger(__name__)

SAMPLINGS = {preset.sampling for preset in PRESETS.values()}
SAMPLING_FLAGS = ("data_set", "sampling", "num_frames", "sampling_rate", "test_num_segment", "test_num_crop")
SAMPLING_FLAGS += ("window_seconds", "window_stride")
"""Flags that select the frames and views of a test; recipes and our own checkpoints contain them."""


def settle_from_checkpoint(flags: dict[str, Any], given: Set[str]) -> None:
    """Fill in the flags of a run from the checkpoint that it resumes, evaluates or fine-tunes, and log them.

    With --eval the checkpoint determines the model, sizes, switches, and number and names of the classes; it is also
    the one to test, whatever --output_dir contains. Training chooses its own sizes; the checkpoint only determines the
    switches that cannot be recognised from the tensors.

    Args:
        flags: changed in place.
        given: names of the flags set by the command line, a recipe or --config.
    Raises:
        FileNotFoundError: as `describe_checkpoint`.
        CheckpointError: as `describe_checkpoint`.
        ValueError: an explicit flag contradicts the checkpoint, or --override_checkpoint names an unknown flag.
    """
    check_overridden(flags["override_checkpoint"])
    path = flags["resume"] or flags["finetune"]
    if not path:
        return
    if not flags["eval"]:
        facts = describe_metadata(path)
        _log(path, settle(flags, given, facts, {Role.SWITCH}))
        if flags["resume"] and not flags["class_names"]:
            flags["class_names"] = facts.flags.get("class_names")
        return
    if not flags["resume"]:
        flags["auto_resume"] = flags["test_best"] = False
    facts = describe_checkpoint(path)
    _log(path, settle(flags, given, facts, {Role.SIZE, Role.SWITCH}))
    _warn_of_other_sampling(facts, flags)
    _settle_task(flags, given, facts)
    names = facts.flags.get("class_names")
    if names and not flags["class_names"]:
        # Fewer classes than in the file are its first ones: Kinetics-400 with a head for Kinetics-710.
        flags["class_names"] = names[: flags.get("nb_classes") or None]


def _settle_task(flags: dict[str, Any], given: Set[str], facts: CheckpointFacts) -> None:
    """Test the task that a file was trained for, with its way of merging views; refuse another one.

    Raises:
        ValueError: --task differs from the file's.
    """
    saved = facts.flags.get("task")
    if saved is None or "task" not in flags:
        return
    if "task" in given and flags["task"] != saved:
        raise ValueError(f"--task {flags['task']}: {facts.path} was trained for --task {saved}; omit the flag")
    flags["task"] = saved
    if "view_merge" in flags.keys() - given:
        flags["view_merge"] = facts.flags.get("view_merge", flags["view_merge"])


def check_overridden(names: Collection[str]) -> None:
    """Raise a ValueError that lists the flags that can be overridden, unless all `names` are among them."""
    known = {setting.flag for setting in flagged_settings() if setting.role is not Role.FREE}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--override_checkpoint {' '.join(unknown)}: there are {', '.join(sorted(known))}")


def settle(flags: dict[str, Any], given: Set[str], facts: CheckpointFacts, roles: Set[Role]) -> dict[str, Any]:
    """Set flags that were not given explicitly to the checkpoint's values, and compare those that were.

    Args:
        flags: flags of model and data, and override_checkpoint; changed in place.
        given: names of the flags that were set explicitly.
        facts: description of the checkpoint.
        roles: roles of the fields of `ModelConfig` that the checkpoint determines.

    Returns:
        the flags whose value changed.

    Raises:
        CheckpointError: the checkpoint has no registered size and does not record its switches.
        ValueError: an explicit flag contradicts the checkpoint.
    """
    answers = _answers(facts, flags, given, roles)
    wanted = _by_name(flags, given) | {name: flags[name] for name in answers if name in given}
    differing = {
        name: value for name, value in wanted.items() if name in answers and not _agrees(name, value, answers)
    }
    model = flags["model"]
    conflicts = [
        f"--{name} {as_typed(value)}{'' if name in given else f' by --model {model}'}, the file has "
        f"{as_typed(answers[name])}"
        for name, value in differing.items()
    ]
    overridden = flags["override_checkpoint"]
    refused = [text for text, name in zip(conflicts, differing, strict=True) if name not in overridden]
    if refused:
        raise ValueError(contradiction(facts.path, refused))
    if conflicts:
        _logger.warning("%s: overridden by --override_checkpoint: %s", facts.path, "; ".join(conflicts))
    kept = given | differing.keys() | set(overridden)
    current = _registered_flags(answers.get("model", flags["model"]))
    current |= {name: value for name, value in flags.items() if value is not None}
    changed = {name: value for name, value in answers.items() if name not in kept and value != current.get(name)}
    flags.update(changed)
    return changed


def _answers(facts: CheckpointFacts, flags: dict[str, Any], given: Set[str], roles: Set[Role]) -> dict[str, Any]:
    """Return the flags that the checkpoint determines, with its values."""
    flag_of = {s.name: s.flag for s in flagged_settings() if s.role in roles and s.flag in flags}
    answers = {flag_of[name]: value for name, value in facts.config.items() if name in flag_of}
    if Role.SIZE not in roles:
        return answers
    facts.require_switches()
    _refuse_other_kind(facts, flags)
    if not facts.num_classes or ("data_set" in flags and get_preset(flags["data_set"]).num_classes):
        answers.pop("nb_classes", None)
    if "model" not in given and facts.model:
        # An explicit --model is only a set of sizes and switches, and those are compared.
        answers = {"model": facts.model} | answers
    return answers


def _refuse_other_kind(facts: CheckpointFacts, flags: dict[str, Any]) -> None:
    """Raise a ValueError if the file is a detector and the script is for classifiers, or the other way round."""
    is_detector = bool(facts.config.get("time_pool"))
    if is_detector and "time_pool" not in flags:
        raise ValueError(
            f"{facts.path} is an action detector and needs boxes: test it with run_action_detection.py, use it with "
            "run_inference.py --boxes FILE"
        )
    if not is_detector and flags.get("time_pool"):
        raise ValueError(
            f"{facts.path} is a classifier of clips and has no head for boxes: train a detector from it first "
            "(--finetune without --eval)"
        )


def _by_name(flags: dict[str, Any], given: Set[str]) -> dict[str, Any]:
    """Return the flags that an explicit --model implies: its sizes, and its switches that differ from the default."""
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
    """Return the flags that a registered model determines; empty for an unknown name."""
    config = registered_config(model)
    if config is None:
        return {}
    return {setting.flag: getattr(config, setting.name) for setting in flagged_settings() if setting.by_name}


def _agrees(name: str, wanted: Any, answers: dict[str, Any]) -> bool:
    """Return whether a requested value is compatible with the checkpoint's."""
    saved = answers[name]
    return wanted == saved or (name == "nb_classes" and (saved, wanted) == KINETICS_710_TO_400)


def known_sampling(facts: CheckpointFacts) -> dict[str, Any]:
    """Return the sampling flags of the run that wrote a checkpoint, without values that are unknown here."""
    saved = {name: facts.flags[name] for name in SAMPLING_FLAGS if facts.flags.get(name) is not None}
    if find_preset(str(saved.get("data_set"))) is None:
        saved.pop("data_set", None)
    if saved.get("sampling") not in SAMPLINGS:
        saved.pop("sampling", None)
    return saved


def _log(path: str, changed: dict[str, Any]) -> None:
    if changed:
        _logger.info(
            "flags from %s: %s", path, ", ".join(f"--{name} {as_typed(value)}" for name, value in changed.items())
        )


def _warn_of_other_sampling(facts: CheckpointFacts, flags: dict[str, Any]) -> None:
    """Warn if frames and views differ from those of the run that wrote the checkpoint."""
    saved = known_sampling(facts)
    data_set = saved.pop("data_set", None)
    current = {name: flags[name] for name in saved}
    if data_set is not None and "data_set" in flags:
        saved["sampling"] = saved.get("sampling") or get_preset(data_set).sampling
        current["sampling"] = flags["sampling"] or get_preset(flags["data_set"]).sampling
    differing = [f"--{name} {saved[name]} -> {current[name]}" for name in saved if saved[name] != current[name]]
    if differing:
        _logger.warning("%s is evaluated on other frames or views than its run: %s", facts.path, ", ".join(differing))
