"""Checkpoint files of a run: saving them, finding the newest, and falling back when it is broken."""

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from common.files import atomic_write, require_space, tensor_bytes, unfinished_files
from engines.distributed import Context, broadcast_object, gather_objects
from engines.objectives.base import Objective
from engines.parallel import load_for_test
from engines.run_folder import files_of_earlier_run, note_start, read_record, set_aside, stopped_here
from engines.settings import RunSettings
from engines.state import TrainingState
from models.checkpoint_file import CheckpointError, peek_checkpoint, read_checkpoint_file
from models.describe import refuse_other_switches

_logger = logging.getLogger(__name__)

LATEST = "checkpoint-latest.pth"
PREVIOUS = "checkpoint-previous.pth"
BEST = "checkpoint-best.pth"


def save_checkpoint(
    state: TrainingState, output_dir: str, context: Context, *, best: bool = False, keep: bool = False
) -> None:
    """Write `state` to checkpoint-latest.pth in `output_dir`. Every rank must call it; rank 0 writes, all wait.

    The previous latest file is kept as checkpoint-previous.pth, in case the new one is damaged.

    Args:
        state: what to save.
        output_dir: folder; nothing is written if empty.
        context: this process.
        best: also write checkpoint-best.pth. It is written first: the latest file contains the best score, so a
            crash between the two must not leave a score without its weights.
        keep: also write checkpoint-{epoch}.pth for the epoch just finished, counted from 0.
    Raises:
        OSError: the disk is full; existing checkpoints are kept.
    """
    if not output_dir:
        return
    saved = state.state_dict()
    folder = Path(output_dir)
    names = ([BEST] if best else []) + ([f"checkpoint-{state.epoch - 1}.pth"] if keep else []) + [LATEST]
    for name in names if context.is_main else ():
        require_space(folder / name, tensor_bytes(saved))
        with atomic_write(folder / name, old=folder / PREVIOUS if name == LATEST else None) as file:
            torch.save(saved, file)
    # When one process exits, launchers terminate the others, including rank 0: wait until it has written.
    gather_objects(None)


def read_checkpoint(path: str | Path, *, keep: bool = False) -> dict[str, Any]:
    """Read a complete training checkpoint to the CPU.

    Args:
        path: the file.
        keep: keep the content in memory for the next call, which then does not open the file again.
    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: the file is broken or not a checkpoint.
    """
    saved = peek_checkpoint(path) if keep else read_checkpoint_file(path)
    if "model" not in saved:
        raise CheckpointError(f"{path} is not a checkpoint of this repository: it has no entry 'model'")
    return saved


def find_checkpoints(output_dir: str) -> list[Path]:
    """Return the checkpoints in `output_dir`: checkpoint-latest.pth first, then the others, most steps first.

    Files whose step cannot be read come last. File times are not used, because clocks may be wrong.
    """
    if not output_dir:
        return []
    found = sorted(Path(output_dir).glob("checkpoint-*.pth"))
    return sorted(found, key=lambda path: (path.name != LATEST, -updates_done(path)))


def updates_done(path: Path) -> float:
    """Return the optimizer steps of a checkpoint without reading its tensors; -1 if they cannot be read."""
    if not path.is_file():
        return -1.0
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return float(saved["step"])
    except Exception:  # noqa: BLE001 - damage raises many errors; `read_checkpoint` reports which
        return -1.0


def read_newest(output_dir: str, *, set_aside: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest intact checkpoint in `output_dir`; None if there is no checkpoint.

    Args:
        output_dir: folder of the run.
        set_aside: rename broken checkpoints, including dangling links, to *.broken, so that they cannot replace an
            intact one later.

    Returns:
        its path and content.

    Raises:
        ValueError: there are checkpoints and all are broken; starting from scratch would hide that.
    """
    paths = find_checkpoints(output_dir)
    broken = []
    for path in paths:
        try:
            saved = read_checkpoint(path, keep=True)
        except (ValueError, FileNotFoundError) as error:
            _logger.warning("%s; trying the next older checkpoint", error)
            broken.append(path)
            continue
        for other in broken if set_aside else ():
            _rename_broken(other)
        return path, saved
    if paths:
        raise ValueError(
            f"none of the checkpoints in {output_dir} can be read ({', '.join(p.name for p in paths)}); "
            "move them away or pass --no_auto_resume to start from scratch"
        )
    return None


def _rename_broken(path: Path) -> None:
    """Rename a file or folder that has a checkpoint's name but cannot be read as one."""
    target, number = path.with_name(f"{path.name}.broken"), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}.broken-{number}")
    _logger.warning("%s cannot be read as a checkpoint and is renamed to %s", path, target.name)
    os.replace(path, target)


def _clear_names(output_dir: str) -> None:
    """Remove unfinished files of a killed run, and rename folders with a checkpoint's name."""
    for path in unfinished_files(output_dir):
        _logger.warning("removing %s, an unfinished file of a killed run", path)
        path.unlink(missing_ok=True)
    for path in Path(output_dir).glob("checkpoint-*.pth"):
        if path.is_dir():
            _rename_broken(path)


def resume_training(state: TrainingState, settings: RunSettings, context: Context) -> None:
    """Resume from --resume or, with --auto_resume, from the newest intact checkpoint in --output_dir, if any.

    If the run in --output_dir was itself started from this --resume file, its newest checkpoint is used instead. The
    same holds if this command was stopped there by a signal, even with --no_auto_resume, so that repeating a command
    always continues its run.

    Rank 0 chooses the file and all ranks load it. Rank 0 also removes unfinished files of a killed run from
    --output_dir, and moves the files of an earlier run that this one does not continue to earlier-N.

    Args:
        state: a new training state; changed in place.
        settings: of the run.
        context: this process.

    Raises:
        FileNotFoundError: --resume does not exist.
        ValueError: --resume is broken or belongs to another model.
    """
    if settings.output_dir and context.is_main:
        _clear_names(settings.output_dir)
    newest = broadcast_object(_newest_of_this_run(settings) if context.is_main else None)
    path = newest or (Path(settings.resume) if settings.resume else None)
    if path is not None:
        _load(state, path, settings)
    if settings.output_dir and context.is_main:
        if newest is not None:
            origin = read_record(settings.output_dir).get("origin", "")
        else:
            _make_way(settings, state)
            origin = str(Path(settings.resume).resolve()) if settings.resume else ""
        note_start(settings.output_dir, origin=origin)


def _load(state: TrainingState, path: Path, settings: RunSettings) -> None:
    saved = read_checkpoint(path)
    refuse_other_switches(state.model, saved, path, settings.override_checkpoint)
    try:
        state.load_state_dict(saved)
    except ValueError as error:
        raise ValueError(f"cannot resume from {path}: {error}") from error
    _logger.info(
        "resumed from %s: %d of %d epochs and %d of %d steps done%s",
        path,
        state.epoch,
        settings.epochs,
        state.epoch_step,
        state.steps_per_epoch,
        "" if state.best_score is None else f", best score {state.best_score:.4g}",
    )


def load_weights(objective: Objective, path: str | Path, overridden: Collection[str] = ()) -> None:
    """Load the weights of a checkpoint for testing: the model's or their EMA, whichever scored better in the run.

    Args:
        objective: bare module, not wrapped for parallel training.
        path: the checkpoint.
        overridden: model switches that may differ from those in the file.
    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is broken, or its weights belong to another model or to other switches.
    """
    saved = read_checkpoint(path)
    refuse_other_switches(objective.model, saved, path, overridden)
    kind = saved.get("test_weights", "model")
    try:
        load_for_test(objective, saved[kind])
    except RuntimeError as error:
        raise ValueError(
            f"{path} contains weights of another model; check --model and the number of classes: {error}"
        ) from error
    _logger.info("testing the %sweights of %s", "EMA " if kind == "model_ema" else "", path)


def _newest_of_this_run(settings: RunSettings) -> Path | None:
    """Return the newest checkpoint in --output_dir if this command continues the run there, else None."""
    record = read_record(settings.output_dir) if settings.output_dir else {}
    started_from_resume = bool(settings.resume) and record.get("origin") == str(Path(settings.resume).resolve())
    stopped = stopped_here(record)
    if not (stopped or (settings.auto_resume and (started_from_resume or not settings.resume))):
        return None
    newest = read_newest(settings.output_dir, set_aside=True)
    if newest and stopped and not settings.auto_resume:
        _logger.warning(
            "--no_auto_resume: this command was stopped by a signal in %s and continues from there; choose another "
            "--output_dir to start from scratch",
            settings.output_dir,
        )
    elif newest and settings.resume:
        _logger.warning(
            "the run in %s was started from --resume %s and continues from its newest checkpoint; "
            "--no_auto_resume starts again",
            settings.output_dir,
            settings.resume,
        )
    return newest[0] if newest else None


def _make_way(settings: RunSettings, state: TrainingState) -> None:
    """Move the files of an earlier run in --output_dir to earlier-N, before a new run starts there from `state`.

    A run that starts from a checkpoint in that folder goes back within the same run: only later checkpoints move.

    Raises:
        ValueError: the new run starts from weights that would be moved.
    """
    earlier = files_of_earlier_run(settings.output_dir)
    origin = Path(settings.resume).resolve() if settings.resume else None
    if origin and origin.parent == Path(settings.output_dir).resolve():
        others = [path for path in find_checkpoints(settings.output_dir) if path.resolve() != origin]
        earlier = [path for path in others if not 0 <= updates_done(path) <= state.step]
    for flag in ("finetune", "teacher", "teacher_scores"):
        file = settings.flags.get(flag)
        if file and Path(file).resolve() in [path.resolve() for path in earlier]:
            raise ValueError(
                f"--{flag} {file} belongs to the earlier run in --output_dir, which a new run there would replace: "
                "choose another --output_dir"
            )
    set_aside(earlier, settings.output_dir)
