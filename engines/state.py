"""The complete state of a training run, saved and restored as one object."""

import logging
import random
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from common.frame_size import as_pair
from common.settings import as_typed
from engines.cuda_graph import GraphedStep, check_capturable
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
# Flags that may change when a run is resumed without a warning.
_FREE_FLAGS = {
    "resume",
    "auto_resume",
    "output_dir",
    "log_dir",
    "log_interval",
    "track",
    "num_workers",
    "pin_mem",
    "device",
    "save_ckpt_freq",
    "save_every_steps",
    "max_skipped_steps",
    "eval",
    "test_best",
}
# What a parsed command line holds besides flags.
_FREE_FLAGS |= {"recipe", "config", "overridden", "dry_run"}
# Flags that say what a run learns: on a finished run, they are refused where others are only reported.
_LEARNT = {"epochs", "steps", "seed", "opt_betas", "opt_eps", "momentum", "weight_decay", "clip_grad"}
_LEARNT |= {"lr", "lr_base", "min_lr", "warmup_lr", "warmup_epochs", "warmup_steps", "layer_decay"}
_LEARNT |= {"aa", "color_jitter", "hflip", "scale", "ratio", "reprob", "mixup", "cutmix", "smoothing", "class_weights"}
_LEARNT |= {"drop", "drop_path", "fc_drop_rate", "distill_weight", "mask_type", "mask_ratio", "model_ema_decay"}


@dataclass
class TrainingState:
    """Everything that changes during training.

    Attributes:
        objective: the bare module, which contains the model.
        parallel: the module to call in training: `objective`, possibly wrapped for several processes.
        optimizer: of the parameters of the model and of the objective.
        scheduler: sets the optimizer's learning rates as a function of `step`.
        steps_per_epoch: optimizer steps per epoch.
        rates: scaled learning rates, and the clips per step that they were scaled with.
        args: flags of the run as plain values.
        ema: EMA of the weights, whose `module` is a copy of the objective; or None.
        epoch: number of finished epochs, which is the index of the current one.
        step: optimizer steps done or skipped.
        skipped: steps of the run that were skipped because loss or gradient were not finite.
        sums: running sums of the current epoch over all processes, up to the last checkpoint.
        best_score: best validation score so far; None before the first validation.
        test_weights: "model" or "model_ema", whichever scored better in the last validation; early in a run the EMA is
            worse than the model.
        random_states: random states of all ranks from a loaded checkpoint, until `restore_random_states` uses them.
        graph: with --cuda_graph, captures and replays the optimizer step; else None.
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
    graph: GraphedStep | None = None

    @property
    def model(self) -> nn.Module:
        """The bare model, whose parameter names are those of checkpoints."""
        return self.objective.model

    @property
    def epoch_step(self) -> int:
        """Optimizer steps done or skipped in the current epoch."""
        return self.step - self.epoch * self.steps_per_epoch

    def finish_epoch(self) -> None:
        """Count the current epoch as finished and reset the running sums."""
        self.epoch += 1
        self.sums = EpochSums()

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state as tensors and plain values. Every rank must call it."""
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
        """Restore a saved state.

        Weights, moments, counters and random states come from `saved`; learning rates, weight decay and schedule
        follow the flags of this run, and a warning lists every flag that differs. If the number of steps per epoch has
        changed, the completed fraction of the epoch is kept.

        Raises:
            ValueError: `saved` has no training state, belongs to another model, or to a finished run of other flags.
        """
        missing = [key for key in ("model", "optimizer", "epoch", "random") if key not in saved]
        if missing:
            raise ValueError(
                f"the file contains no training state ({', '.join(missing)} missing): it can be fine-tuned "
                "(--finetune) but not resumed"
            )
        self._refuse_other_frames(saved.get(CONFIG_KEY) or {})
        self._refuse_another_optimizer(saved.get("args", {}))
        self._check_changed_flags(saved.get("args", {}), saved["epoch"])
        self._warn_of_changed_batch(saved.get("rates"))
        try:
            load_model(self.objective, saved["model"])
            load_optimizer(self.optimizer, saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            last = str(error).splitlines()[-1].strip()
            raise ValueError(
                f"the checkpoint belongs to another model or optimizer ({last}); begin a new run in another "
                "--output_dir, from its weights if they serve: --finetune FILE"
            ) from error
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
        """Restore this process's random states from the loaded checkpoint, once.

        Call it right before the first optimizer step, so that random numbers drawn during setup do not matter. With
        another number of processes the states are not restored, and a warning says so.
        """
        states, self.random_states = self.random_states, []
        if not states:
            return
        if len(states) != context.world_size:
            _logger.warning(
                "the checkpoint was written by %d process(es) and this run has %d: random states are not restored",
                len(states),
                context.world_size,
            )
            return
        set_random_state(states[context.rank])

    def tested(self) -> Objective:
        """Return the objective to test: with the weights of the model or of the EMA, as `test_weights` says."""
        return self.ema.module if self.ema is not None and self.test_weights == "model_ema" else self.objective

    def note_scores(self, model_score: float, ema_score: float | None) -> bool:
        """Record the validation scores of the model and its EMA; return whether the better one is the best so far."""
        score = self.objective.score
        if score is None:
            return False
        self.test_weights, reached = "model", model_score
        if ema_score is not None and (ema_score == model_score or score.is_better(ema_score, model_score)):
            self.test_weights, reached = "model_ema", ema_score
        if not score.is_better(reached, self.best_score):
            return False
        self.best_score = reached
        return True

    def _refuse_other_frames(self, saved_config: dict[str, Any]) -> None:
        """Raise a ValueError for other frames: 32 x 48 and 48 x 32 have as many positions, in other places."""
        own, size = (configuration_of(self.model) or {}).get("img_size"), saved_config.get("img_size")
        if own and size and as_pair(size) != as_pair(own):
            raise ValueError(f"its frames have --input_size {as_typed(size)}, those of this run {as_typed(own)}")

    def _refuse_another_optimizer(self, saved_args: dict[str, Any]) -> None:
        """Raise a ValueError for the moments of another optimizer, which PyTorch would load without a look at them."""
        own = str(self.args.get("opt"))
        saved = str(saved_args.get("opt", own))
        if saved.lower() != own.lower():
            raise ValueError(
                f"the checkpoint has the state of --opt {saved}, not of --opt {own}; resume with --opt {saved}, or "
                "begin a new run from its weights: --finetune FILE, in another --output_dir"
            )

    def _check_changed_flags(self, saved_args: dict[str, Any], epoch: int) -> None:
        """Warn of changed flags; raise a ValueError if nothing is left to be trained with them."""
        changed = {
            name: f"--{name} {as_typed(saved_args[name])} -> {as_typed(self.args[name])}"
            for name in sorted(self.args)
            if name in saved_args and name not in _FREE_FLAGS and saved_args[name] != self.args[name]
        }
        finished = epoch >= self.args.get("epochs", epoch + 1)
        learnt = [text for name, text in changed.items() if name in _LEARNT]
        if finished and learnt:
            instead = "--finetune FILE in place of --resume" if self.args.get("resume") else "another --output_dir"
            raise ValueError(
                f"the run is finished, so nothing would be trained with {', '.join(learnt)}; begin a new run with "
                f"{instead}, or only test: --eval --resume FILE"
            )
        if changed:
            only = " (the run is finished and only tested)" if finished else ""
            _logger.warning("flags changed since the checkpoint was written%s: %s", only, ", ".join(changed.values()))

    def _warn_of_changed_batch(self, saved_rates: dict[str, Any] | None) -> None:
        if saved_rates and saved_rates["clips_per_update"] != self.rates.clips_per_update:
            _logger.warning(
                "the checkpoint was written with %d clips per optimizer step, and this run has %d: "
                "peak learning rate %g -> %g",
                saved_rates["clips_per_update"],
                self.rates.clips_per_update,
                saved_rates["peak"],
                self.rates.peak,
            )


def create_training_state(
    objective: Objective, settings: RunSettings, context: Context, *, steps_per_epoch: int
) -> TrainingState:
    """Move `objective` to its device and create everything that trains it: wrapper, EMA, optimizer, schedule.

    Args:
        objective: the bare module; parameters with requires_grad = False are not optimized.
        settings: of the run.
        context: this process.
        steps_per_epoch: optimizer steps per epoch (`engines.train.updates_per_epoch`).

    Raises:
        ValueError: --start_epoch leaves nothing to train, or the run does not suit --cuda_graph.
    """
    if settings.start_epoch and settings.start_epoch >= settings.epochs:
        raise ValueError(
            f"--start_epoch {settings.start_epoch} leaves nothing to train: --epochs is {settings.epochs}"
        )
    objective.to(context.device)
    send_weights(objective)
    # Before the wrapper: a sharded model cannot be copied.
    ema = (
        # Statistics are copied, not averaged: with FSDP, they are no sharded tensors like the parameters.
        ModelEmaV3(
            objective,
            decay=settings.model_ema_decay,
            use_warmup=settings.model_ema_warmup,
            exclude_buffers=True,
        )
        if settings.model_ema
        else None
    )
    parallel = wrap_model(objective, context, parallel=settings.parallel, compiled=settings.compile)
    if ema is not None and settings.parallel == "fsdp" and context.world_size > 1:
        shard_model(ema.module, context)
    rates = scale_learning_rates(settings, context.world_size)
    sharded = settings.parallel == "fsdp" and context.world_size > 1
    on_device = context.device.type == "cuda" and not sharded
    groups = objective.optimizer_groups()
    optimizer = create_optimizer(SavedNames(objective), settings, rates.peak, groups, on_device=on_device)
    if settings.cuda_graph:
        check_capturable(settings, objective, optimizer, context)
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
        graph=GraphedStep(context.device) if settings.cuda_graph else None,
    )
    scheduler.step_update(state.step)
    return state


def random_state() -> dict[str, Any]:
    """Return the states of this process's random number generators (python, numpy, torch, cuda) as plain values."""
    state: Any = np.random.get_state()
    _, keys, position, has_gauss, cached = state
    return {
        "python": random.getstate(),
        "numpy": [torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the random states returned by `random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed the random number generators of python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
