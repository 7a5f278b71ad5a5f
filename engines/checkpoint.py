"""Checkpoint files: which are written, how one is found again, and what happens when the newest is broken."""

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

    What was the latest file becomes checkpoint-previous.pth, so that there is a whole one whatever becomes of the
    newest.

    Args:
        state: what to save.
        output_dir: folder; nothing is written when empty.
        context: this process.
        best: write checkpoint-best.pth as well. It is written first: the latest file remembers the best score, so a
            crash between the two must not leave a score whose weights were never written.
        keep: write checkpoint-{epoch}.pth as well, numbered by the epoch just finished, from 0.
    Raises:
        OSError: the disk is full; the checkpoints that were there still are.
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
    # A process that leaves has launchers end the others, rank 0 among them.
    gather_objects(None)


def read_checkpoint(path: str | Path, *, keep: bool = False) -> dict[str, Any]:
    """Read a whole training checkpoint to the CPU.

    Args:
        path: the file.
        keep: only look; the content is kept for the next reading, which does not open the file again.
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is broken or is no checkpoint.
    """
    saved = peek_checkpoint(path) if keep else read_checkpoint_file(path)
    if "model" not in saved:
        raise CheckpointError(f"{path} is no checkpoint of this repository: it has no entry 'model'")
    return saved


def find_checkpoints(output_dir: str) -> list[Path]:
    """Return the checkpoints in `output_dir`: checkpoint-latest.pth first, then the others, most updates first.

    Those whose progress cannot be read come last. The files' times are not asked: clocks are set back.
    """
    if not output_dir:
        return []
    found = sorted(Path(output_dir).glob("checkpoint-*.pth"))
    return sorted(found, key=lambda path: (path.name != LATEST, -updates_done(path)))


def updates_done(path: Path) -> float:
    """Return the optimiser updates done in a checkpoint, without reading its tensors; -1 where it does not say."""
    if not path.is_file():
        return -1.0
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return float(saved["step"])
    except Exception:  # noqa: BLE001 - damage has many names; `read_checkpoint` says which
        return -1.0


def read_newest(output_dir: str, *, set_aside: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest checkpoint of `output_dir` that is whole; None where there is none at all.

    With `set_aside`, broken ones (links that lead nowhere too) get the suffix .broken, so that they cannot take the
    place of a whole one later.

    Raises:
        ValueError: there are checkpoints and all are broken; going on from nothing would hide that.
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
            "move them away or pass --no_auto_resume to start afresh"
        )
    return None


def _rename_broken(path: Path) -> None:
    """Free the name of what cannot be read as a checkpoint."""
    target, number = path.with_name(f"{path.name}.broken"), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}.broken-{number}")
    _logger.warning("%s is no checkpoint that can be read and is renamed to %s", path, target.name)
    os.replace(path, target)


def _clear_names(output_dir: str) -> None:
    """Remove what a killed run left unfinished, and rename folders that are called like checkpoints."""
    for path in unfinished_files(output_dir):
        _logger.warning("removing %s, which a killed run left unfinished", path)
        path.unlink(missing_ok=True)
    for path in Path(output_dir).glob("checkpoint-*.pth"):
        if path.is_dir():
            _rename_broken(path)


def resume_training(state: TrainingState, settings: RunSettings, context: Context) -> None:
    """Continue from --resume, else (--auto_resume) from the newest whole checkpoint in --output_dir; else do nothing.

    Where the run in --output_dir began from that very --resume, its newest checkpoint is taken instead; likewise where
    this command was stopped there by a signal, --no_auto_resume or not: so the same command goes on.

    Rank 0 chooses the file, and all ranks load that one. Rank 0 also removes the files that a killed run left
    unfinished in --output_dir, and sets aside those of an earlier run that this one does not continue.

    Raises:
        FileNotFoundError, ValueError: --resume names no file, a broken one, or the state of another model.
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
        "resumed from %s: %d of %d epochs and %d of %d updates done%s",
        path,
        state.epoch,
        settings.epochs,
        state.epoch_step,
        state.steps_per_epoch,
        "" if state.best_score is None else f", best score {state.best_score:.4g}",
    )


def load_weights(objective: Objective, path: str | Path, overridden: Collection[str] = ()) -> None:
    """Load a run's weights into the bare objective for testing: the model's or their average, as the run noted.

    Args:
        overridden: flags of switches in which the model may differ from what the file says.
    Raises:
        FileNotFoundError, ValueError: no file, a broken one, or weights of another model or with other switches.
    """
    saved = read_checkpoint(path)
    refuse_other_switches(objective.model, saved, path, overridden)
    kind = saved.get("test_weights", "model")
    try:
        load_for_test(objective, saved[kind])
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds weights of another model; check --model and the number of classes: {error}"
        ) from error
    _logger.info("testing the %sweights of %s", "averaged " if kind == "model_ema" else "", path)


def _newest_of_this_run(settings: RunSettings) -> Path | None:
    """Return the newest checkpoint in --output_dir where this command continues the run that is there."""
    record = read_record(settings.output_dir) if settings.output_dir else {}
    began_there = bool(settings.resume) and record.get("origin") == str(Path(settings.resume).resolve())
    stopped = stopped_here(record)
    if not (stopped or (settings.auto_resume and (began_there or not settings.resume))):
        return None
    newest = read_newest(settings.output_dir, set_aside=True)
    if newest and stopped and not settings.auto_resume:
        _logger.warning(
            "--no_auto_resume: this command was stopped by a signal in %s and goes on from there; give another "
            "--output_dir to begin afresh",
            settings.output_dir,
        )
    elif newest and settings.resume:
        _logger.warning(
            "the run in %s began from --resume %s and goes on from its newest state; --no_auto_resume begins again",
            settings.output_dir,
            settings.resume,
        )
    return newest[0] if newest else None


def _make_way(settings: RunSettings, state: TrainingState) -> None:
    """Set aside what an earlier run left in --output_dir, for the run that begins there with `state`.

    Where it begins from a checkpoint in that folder, it goes back in the same run: only later states are in its way.

    Raises:
        ValueError: the run begins from weights that would be moved.
    """
    earlier = files_of_earlier_run(settings.output_dir)
    origin = Path(settings.resume).resolve() if settings.resume else None
    if origin and origin.parent == Path(settings.output_dir).resolve():
        earlier = [
            path for path in find_checkpoints(settings.output_dir)
            if path.resolve() != origin and not 0 <= updates_done(path) <= state.step
        ]  # fmt: skip
    for flag in ("finetune", "teacher"):
        file = settings.flags.get(flag)
        if file and Path(file).resolve() in [path.resolve() for path in earlier]:
            raise ValueError(
                f"--{flag} {file} is a file of the earlier run in --output_dir, which a new run there would replace: "
                "give another --output_dir"
            )
    set_aside(earlier, settings.output_dir)
