"""All that a training run must remember, in one object that is saved and restored whole."""

import logging
import random
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from engines.distributed import Context, gather_objects
from engines.epoch_sums import EpochSums
from engines.objectives.base import Objective, SavedNames
from engines.optim import LearningRates, create_optimizer, create_schedule, scale_learning_rates
from engines.parallel import (
    load_model,
    load_optimizer,
    saved_weights,
    send_weights,
    shard_model,
    whole_state,
    wrap_model,
)
from engines.settings import RunSettings
from models.checkpoint_file import CONFIG_KEY
from models.describe import configuration_of

_logger = logging.getLogger(__name__)

FORMAT = 1
# Flags that may differ between a run and its continuation without a word.
_FREE_FLAGS = {
    "resume",
    "auto_resume",
    "output_dir",
    "log_dir",
    "log_interval",
    "num_workers",
    "pin_mem",
    "device",
    "save_ckpt_freq",
    "save_every_steps",
    "max_skipped_steps",
    "eval",
    "test_best",
}


@dataclass
class TrainingState:
    """Everything that changes while training.

    Attributes:
        objective: the bare module, with the model in it.
        parallel: what training calls: `objective`, or `objective` wrapped for several processes.
        optimizer: updates the model and the objective's own parameters.
        scheduler: sets the optimiser's learning rates; a function of `step`.
        steps_per_epoch: optimiser updates in one epoch.
        rates: learning rates after scaling, and the clips per update that they are scaled with.
        args: the run's flags as plain values.
        ema: moving average of the weights, whose `module` is a copy of the objective; or None.
        epoch: epochs finished, which is the number of the next one.
        step: optimiser updates done or skipped.
        skipped: updates left out in the whole run because loss or gradient were not finite.
        sums: over the updates of the current epoch, all processes together, up to the last checkpoint.
        best_score: best value so far of the objective's score in a validation, None before the first one.
        test_weights: "model" or "model_ema", whichever was better in the last validation; an average over more updates
            than the run has had is worse than the model.
        random_states: every rank's random states of a loaded checkpoint, until `restore_random_states` uses them.
    """

    objective: Objective
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    steps_per_epoch: int
    rates: LearningRates
    args: dict[str, Any]
    ema: ModelEmaV3 | None = None
    epoch: int = 0
    step: int = 0
    skipped: int = 0
    sums: EpochSums = field(default_factory=EpochSums)
    best_score: float | None = None
    test_weights: str = "model"
    random_states: list[dict] = field(default_factory=list)

    @property
    def model(self) -> nn.Module:
        """The bare model; its parameter names are the checkpoint's."""
        return self.objective.model

    @property
    def epoch_step(self) -> int:
        """Optimiser updates done or skipped in the current epoch."""
        return self.step - self.epoch * self.steps_per_epoch

    def finish_epoch(self) -> None:
        """Count the current epoch as finished and begin the next one's sums."""
        self.epoch += 1
        self.sums = EpochSums()

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as tensors and plain values. Every rank must call it: it gathers from all."""
        return {
            "format": FORMAT,
            "model": saved_weights(self.objective),
            "model_ema": saved_weights(self.ema.module) if self.ema is not None else None,
            "optimizer": whole_state(self.optimizer.state_dict()),
            "scheduler": self.scheduler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "epoch_step": self.epoch_step,
            "steps_per_epoch": self.steps_per_epoch,
            "rates": asdict(self.rates),
            "skipped": self.skipped,
            "sums": self.sums.state_dict(),
            "best_score": self.best_score,
            "test_weights": self.test_weights,
            "random": gather_objects(random_state()),
            "args": self.args,
            CONFIG_KEY: configuration_of(self.model),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over a saved state.

        Weights, moments, counters and random states come from `saved`; learning rates, decay and schedule stay what
        this run's flags say, and every flag that differs is named in a warning. Where an epoch has another number of
        updates now, its finished share is kept.

        Raises:
            ValueError: `saved` has no training state, or is of another model.
        """
        missing = [key for key in ("model", "optimizer", "epoch", "random") if key not in saved]
        if missing:
            raise ValueError(
                f"the file holds no training state ({', '.join(missing)} not in it): it can be a "
                "starting point (--finetune) but not be resumed"
            )
        self._warn_of_changed_flags(saved.get("args", {}))
        self._warn_of_changed_batch(saved.get("rates"))
        try:
            load_model(self.objective, saved["model"])
            settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
            load_optimizer(self.optimizer, saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"the checkpoint is of another model or optimiser: {error}") from error
        for group, setting in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(setting)
        if self.ema is not None:
            load_model(self.ema.module, saved.get("model_ema") or saved["model"])
        self.epoch = saved["epoch"]
        done = saved.get("epoch_step", 0) * self.steps_per_epoch // saved.get("steps_per_epoch", self.steps_per_epoch)
        self.step = self.epoch * self.steps_per_epoch + done
        self.skipped = saved.get("skipped", 0)
        self.sums = EpochSums.from_saved(saved.get("sums", {}))
        self.best_score = saved.get("best_score")
        self.test_weights = saved.get("test_weights", "model") if self.ema is not None else "model"
        self.random_states = saved["random"]
        self.scheduler.step_update(self.step)

    def restore_random_states(self, context: Context) -> None:
        """Set this process's random generators to the loaded checkpoint's, once.

        Called right before the first update, so that nothing drawn while the run was built matters. With another
        number of processes the generators are left as they are, with a warning.
        """
        states, self.random_states = self.random_states, []
        if not states:
            return
        if len(states) != context.world_size:
            _logger.warning(
                "the checkpoint is of %d process(es) and this run has %d: random states are not restored",
                len(states),
                context.world_size,
            )
            return
        set_random_state(states[context.rank])

    def tested(self) -> Objective:
        """Return the objective whose weights are to be tested, as `test_weights` says."""
        return self.ema.module if self.ema is not None and self.test_weights == "model_ema" else self.objective

    def note_scores(self, model_score: float, ema_score: float | None) -> bool:
        """Remember an epoch's validation score of the model and its average; True when it is the best so far."""
        score = self.objective.score
        if score is None:
            return False
        averaged = ema_score is not None and (ema_score == model_score or score.is_better(ema_score, model_score))
        self.test_weights = "model_ema" if averaged else "model"
        reached = model_score if ema_score is None or not averaged else ema_score
        if not score.is_better(reached, self.best_score):
            return False
        self.best_score = reached
        return True

    def _warn_of_changed_flags(self, saved_args: dict[str, Any]) -> None:
        changed = [
            f"--{name} {saved_args[name]} -> {self.args[name]}"
            for name in sorted(self.args)
            if name in saved_args and name not in _FREE_FLAGS and saved_args[name] != self.args[name]
        ]
        if changed:
            _logger.warning("flags changed since the checkpoint was written: %s", ", ".join(changed))

    def _warn_of_changed_batch(self, saved_rates: dict[str, Any] | None) -> None:
        if saved_rates and saved_rates["clips_per_update"] != self.rates.clips_per_update:
            _logger.warning(
                "an update had %d clips when the checkpoint was written and has %d now: peak learning rate %g -> %g",
                saved_rates["clips_per_update"],
                self.rates.clips_per_update,
                saved_rates["peak"],
                self.rates.peak,
            )


def create_training_state(
    objective: Objective, settings: RunSettings, context: Context, *, steps_per_epoch: int
) -> TrainingState:
    """Put `objective` on its device and build all that trains it: parallel wrapper, average, optimiser, schedule.

    Args:
        objective: the bare module; parameters frozen by requires_grad = False stay out of the optimiser.
        settings: of the run.
        context: this process.
        steps_per_epoch: optimiser updates per epoch (`engines.train.updates_per_epoch`).

    Raises:
        ValueError: --start_epoch leaves nothing to train.
    """
    if settings.start_epoch and settings.start_epoch >= settings.epochs:
        raise ValueError(
            f"--start_epoch {settings.start_epoch} leaves nothing to train: --epochs is {settings.epochs} in all"
        )
    objective.to(context.device)
    send_weights(objective)
    # Before the wrapper: a sharded model cannot be copied.
    ema = (
        ModelEmaV3(objective, decay=settings.model_ema_decay, use_warmup=settings.model_ema_warmup)
        if settings.model_ema
        else None
    )
    parallel = wrap_model(objective, context, parallel=settings.parallel, compiled=settings.compile)
    if ema is not None and settings.parallel == "fsdp" and context.world_size > 1:
        shard_model(ema.module, context)
    rates = scale_learning_rates(settings, context.world_size)
    optimizer = create_optimizer(SavedNames(objective), settings, rates.peak)
    scheduler = create_schedule(optimizer, settings, rates, steps_per_epoch)
    state = TrainingState(
        objective,
        parallel,
        optimizer,
        scheduler,
        steps_per_epoch,
        rates,
        settings.flags,
        ema,
        epoch=settings.start_epoch,
        step=settings.start_epoch * steps_per_epoch,
        test_weights="model" if ema is None else "model_ema",
    )
    scheduler.step_update(state.step)
    return state


def random_state() -> dict[str, Any]:
    """Return the states of this process's random generators (python, numpy, torch, cuda) as tensors and numbers."""
    state: Any = np.random.get_state()
    _, keys, position, has_gauss, cached = state
    return {
        "python": random.getstate(),
        "numpy": [torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set this process's random generators to what `random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed python's, numpy's and torch's generators of this process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
