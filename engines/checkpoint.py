"""Checkpoint files: which are written, how one is found again, and what happens when the newest is broken."""

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engines.distributed import Context, broadcast_object, gather_objects
from engines.files import atomic_write, require_space, tensor_bytes, unfinished_files
from engines.parallel import load_model
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
    """Return the checkpoints in `output_dir`: checkpoint-latest.pth first, then the others, the youngest first."""
    if not output_dir or not Path(output_dir).is_dir():
        return []
    found = sorted(Path(output_dir).glob("checkpoint-*.pth"), key=lambda path: path.stat().st_mtime, reverse=True)
    return sorted(found, key=lambda path: path.name != LATEST)


def read_newest(output_dir: str, *, set_aside: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest checkpoint of `output_dir` that is whole; None where there is none at all.

    With `set_aside`, broken ones get the suffix .broken, so that they cannot take the place of a whole one later.

    Raises:
        ValueError: there are checkpoints and all are broken; going on from nothing would hide that.
    """
    paths = find_checkpoints(output_dir)
    broken = []
    for path in paths:
        try:
            saved = read_checkpoint(path, keep=True)
        except ValueError as error:
            _logger.warning("%s; trying the next older checkpoint", error)
            broken.append(path)
            continue
        for other in broken if set_aside else ():
            _logger.warning("%s is renamed to %s.broken", other, other.name)
            os.replace(other, other.with_name(f"{other.name}.broken"))
        return path, saved
    if paths:
        raise ValueError(
            f"none of the checkpoints in {output_dir} can be read ({', '.join(p.name for p in paths)}); "
            "move them away or pass --no_auto_resume to start afresh"
        )
    return None


def resume_training(state: TrainingState, args, context: Context) -> None:
    """Continue from --resume, else (--auto_resume) from the newest whole checkpoint in --output_dir; else do nothing.

    Rank 0 chooses the file, and all ranks load that one. Rank 0 also removes the files that a killed run left
    unfinished in --output_dir.

    Raises:
        FileNotFoundError, ValueError: --resume names no file, a broken one, or the state of another model.
    """
    path = _choose(args, context)
    if path is None:
        return
    saved = read_checkpoint(path)
    refuse_other_switches(state.model, saved, path, args.override_checkpoint)
    try:
        state.load_state_dict(saved)
    except ValueError as error:
        raise ValueError(f"cannot resume from {path}: {error}") from error
    _logger.info(
        "resumed from %s: %d of %d epochs and %d of %d updates done%s",
        path,
        state.epoch,
        args.epochs,
        state.epoch_step,
        state.steps_per_epoch,
        "" if state.best_score is None else f", best top-1 {state.best_score:.2f} %",
    )


def load_weights(model: nn.Module, path: str | Path, overridden: Collection[str] = ()) -> None:
    """Load a run's weights into the bare `model` for testing: the model's or their average, as the run noted.

    Args:
        overridden: flags of switches in which `model` may differ from what the file says.
    Raises:
        FileNotFoundError, ValueError: no file, a broken one, or weights of another model or with other switches.
    """
    saved = read_checkpoint(path)
    refuse_other_switches(model, saved, path, overridden)
    kind = saved.get("test_weights", "model")
    try:
        load_model(model, saved[kind])
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds weights of another model; check --model and the number of classes: {error}"
        ) from error
    _logger.info("testing the %sweights of %s", "averaged " if kind == "model_ema" else "", path)


def _choose(args, context: Context) -> Path | None:
    """Return the file to resume from, the same on all ranks."""
    if args.output_dir and context.is_main:
        for path in unfinished_files(args.output_dir):
            _logger.warning("removing %s, which a killed run left unfinished", path)
            path.unlink(missing_ok=True)
    if args.resume:
        return Path(args.resume)
    choice = None
    if args.auto_resume and context.is_main:
        found = read_newest(args.output_dir, set_aside=True)
        choice = found[0] if found else None
    return broadcast_object(choice)
