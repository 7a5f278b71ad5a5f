"""Optimiser and learning-rate schedule: no-decay rules, layer-wise learning-rate decay, cosine with warm-up."""

import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler

from common.flag_types import (
    fraction,
    non_negative,
    non_negative_int,
    positive,
    positive_fraction,
    positive_int,
    proper_fraction,
    whole_number,
)
from common.settings import flag, option

_logger = logging.getLogger(__name__)

LAYER_DECAY_SCOPES = ("embeddings", "layers")
# What the published code's layer decay reaches; it leaves the temporal positions alone.
_EMBEDDINGS = re.compile(r"(^|\.)(patch_embed\.|pos_embed$|cls_token$)")


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser and what happens to a gradient before it."""

    opt: str = option("adamw", "optimiser, by timm's name")
    opt_eps: float = option(1e-8, "epsilon of the optimiser", positive)
    opt_betas: tuple[float, ...] = option((0.9, 0.999), "betas of Adam-like optimisers", proper_fraction, nargs="+")
    momentum: float = option(0.9, "momentum of SGD-like optimisers", fraction)
    weight_decay: float = option(0.05, "weight decay; not for biases, norms and what the model excludes", non_negative)
    layer_decay: float = option(
        0.75, "factor of the learning rate per layer below the head; 1: none", positive_fraction
    )
    layer_decay_scope: str = option(
        "embeddings",
        "what --layer_decay reaches: patch, position and class embeddings only, as in all published runs, or every "
        "layer by its position, as in VideoMAE",
        choices=LAYER_DECAY_SCOPES,
    )
    clip_grad: float | None = option(
        None, "largest gradient norm; larger gradients are scaled down to it (default: no clipping)", positive
    )
    update_freq: int = option(1, "batches accumulated for one optimiser update", positive_int)
    max_skipped_steps: int = option(
        10,
        "optimiser updates of a run that may be skipped because loss or gradient are not finite, each with a report "
        "in nonfinite-STEP.json; one more stops the run",
        non_negative_int,
    )


@dataclass(frozen=True)
class ScheduleSettings:
    """The length of the run and its learning rates."""

    epochs: int = option(30, "epochs in all", non_negative_int)
    steps: int = option(
        0,
        "optimizer steps in all, in --epochs equal parts: each repeats or cuts short the training list as it needs "
        "(default: 0, an epoch is the list once)",
        non_negative_int,
    )
    start_epoch: int = option(0, "first epoch, counted from 0; a resumed checkpoint overrides it", non_negative_int)
    lr: float = option(
        1e-3,
        "peak learning rate for --lr_base clips per update; it is multiplied by "
        "batch_size x processes x update_freq x num_sample / lr_base",
        non_negative,
    )
    min_lr: float = option(1e-6, "learning rate at the end of the cosine, scaled like --lr", non_negative)
    warmup_lr: float = option(1e-6, "learning rate at the first update, scaled like --lr", non_negative)
    lr_base: float = option(256, "clips per update that --lr is meant for; the image recipes use 512", positive)
    lr_absolute: bool = flag(
        False, "take --lr, --min_lr and --warmup_lr as typed, whatever the clips per step (default: off)"
    )
    scale_min_lr: bool = flag(True, "scale --min_lr and --warmup_lr as well; the image recipes do not (default: on)")
    warmup_epochs: float = option(5, "epochs of linear warm-up", non_negative)
    warmup_steps: int = option(-1, "optimiser updates of warm-up; above 0 overrides --warmup_epochs", whole_number(-1))


@dataclass(frozen=True)
class AverageSettings:
    """The exponential moving average of the weights."""

    model_ema: bool = flag(False, "keep a moving average of the weights; it is validated and tested (default: off)")
    model_ema_decay: float = option(0.9999, "decay of the average per update", proper_fraction)
    model_ema_warmup: bool = flag(
        False, "let the decay grow from 0, for runs of less than about 50,000 updates (default: off)"
    )


@dataclass(frozen=True)
class BatchSettings(OptimizerSettings, ScheduleSettings):
    """What the clips of an update, and with them the learning rates, depend on.

    Attributes:
        batch_size: videos of a process and step.
        num_sample: clips of a video.
    """

    batch_size: int = 1
    num_sample: int = 1


@dataclass(frozen=True)
class LearningRates:
    """Learning rates of a run after scaling, and the clips per update they are for."""

    peak: float
    minimum: float
    warmup: float
    clips_per_update: int


def scale_learning_rates(settings: BatchSettings, world_size: int) -> LearningRates:
    """Scale the learning rates linearly with the clips per update, as the published recipes do.

    clips per update = batch_size x processes x update_freq x num_sample; the factor is that over `lr_base` (256 for
    video). Without `scale_min_lr`, min_lr and warmup_lr are left alone (the ImageNet recipe, which also has base 512).
    With `lr_absolute`, all three are.
    """
    clips = settings.batch_size * world_size * settings.update_freq * settings.num_sample
    factor = 1.0 if settings.lr_absolute else clips / settings.lr_base
    other = factor if settings.scale_min_lr else 1.0
    rates = LearningRates(settings.lr * factor, settings.min_lr * other, settings.warmup_lr * other, clips)
    _logger.info(
        "%d clips per update (batch %d x %d processes x %d batches x %d samples of a video): lr %g, min %g, "
        "warm-up from %g",
        clips,
        settings.batch_size,
        world_size,
        settings.update_freq,
        settings.num_sample,
        rates.peak,
        rates.minimum,
        rates.warmup,
    )
    _logger.info("learning rate: %s", _rate_in_words(settings, rates))
    if rates.minimum > rates.peak:
        _logger.warning(
            "--min_lr %g is above the peak learning rate %g after scaling: the rate will rise, not fall; "
            "lower --min_lr or raise --lr",
            rates.minimum,
            rates.peak,
        )
    return rates


def _rate_in_words(settings: BatchSettings, rates: LearningRates) -> str:
    """Say what became of --lr, which users read as the rate of the run."""
    if settings.lr_absolute:
        return f"--lr {settings.lr:g} as typed (--lr_absolute), at {rates.clips_per_update} clips per step"
    return (
        f"--lr {settings.lr:g} is for {settings.lr_base:g} clips per step; at {rates.clips_per_update} clips per step "
        f"this is {rates.peak:g} (--lr_absolute takes it as typed)"
    )


def no_weight_decay_names(model: Any) -> set[str]:
    """Names of the parameters that go without weight decay, beside those of one dimension.

    They come from `model.no_weight_decay()`, from a `_no_weight_decay` attribute on the parameter (Mamba's A_log and
    D) and from names that end in ".bias".
    """
    names = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    for name, parameter in model.named_parameters():
        if getattr(parameter, "_no_weight_decay", False) or name.endswith(".bias"):
            names.add(name)
    return names


def layer_scales(model: Any, layer_decay: float, scope: str) -> dict[str, float]:
    """Compute the factor of every parameter's learning rate.

    Args:
        model: the bare module, with timm's `group_matcher()`: layers are counted by their position.
        layer_decay: factor per layer below the head.
        scope: "layers" decays by position, as VideoMAE and BEiT do: the head has 1, the last block `layer_decay`, the
            embeddings layer_decay^(depth + 1). "embeddings" gives patch_embed, pos_embed and cls_token that last
            factor and all other parameters 1, as the published code of VideoMamba and VideoMambaPro does: its line for
            the layers is commented out, and every published number was trained so.

    Returns:
        parameter name -> factor.

    Raises:
        ValueError: the model has no `group_matcher`.
    """
    if not hasattr(model, "group_matcher"):
        raise ValueError(
            f"--layer_decay {layer_decay} needs a model with group_matcher(), which this one lacks; "
            "use --layer_decay 1"
        )
    layer_of: Any = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    head = max(layer_of.values())
    by_position = {name: layer_decay ** (head - layer_of.get(name, head)) for name, _ in model.named_parameters()}
    if scope == "layers":
        return by_position
    return {name: scale if _EMBEDDINGS.search(name) else 1.0 for name, scale in by_position.items()}


def parameter_groups(
    model: Any, *, weight_decay: float, layer_decay: float = 1.0, scope: str = "embeddings"
) -> list[dict]:
    """Sort the trainable parameters into optimiser groups.

    Args:
        model: the bare module (not wrapped for distributed training).
        weight_decay: for every parameter that `no_weight_decay_names` and the one-dimension rule leave.
        layer_decay: see `layer_scales`, whose factor is a group's "lr_scale"; 1 for none.
        scope: see `layer_scales`.

    Raises:
        ValueError: layer decay is asked of a model without `group_matcher`.
    """
    unscaled = param_groups_weight_decay(
        model, weight_decay=weight_decay, no_weight_decay_list=no_weight_decay_names(model)
    )
    if layer_decay == 1:
        return unscaled
    scales = layer_scales(model, layer_decay, scope)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = []
    for group in unscaled:
        by_scale = defaultdict(list)
        for parameter in group["params"]:
            by_scale[scales[name_of[id(parameter)]]].append(parameter)
        groups += [{**group, "params": some, "lr_scale": scale} for scale, some in by_scale.items()]
    return groups


def create_optimizer(model: Any, settings: OptimizerSettings, lr: float) -> torch.optim.Optimizer:
    """Build the optimiser that settings.opt names (timm's registry) over `parameter_groups`, with peak rate `lr`.

    Epsilon, betas and momentum go to the optimisers that have them.
    """
    groups = parameter_groups(
        model, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay, scope=settings.layer_decay_scope
    )
    scales = [group.get("lr_scale", 1.0) for group in groups]
    _logger.info(
        "%s: %d parameter groups, weight decay %g, layer factors %.3g to %.3g",
        settings.opt,
        len(groups),
        settings.weight_decay,
        min(scales),
        max(scales),
    )
    return create_optimizer_v2(
        groups,
        opt=settings.opt,
        lr=lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        eps=settings.opt_eps,
        betas=tuple(settings.opt_betas),
    )


def create_schedule(
    optimizer: torch.optim.Optimizer, settings: ScheduleSettings, rates: LearningRates, steps_per_epoch: int
) -> CosineLRScheduler:
    """Linear warm-up from rates.warmup to the peak, then half a cosine down to rates.minimum, one step per update.

    Call `step_update(n)` after the n-th update; n = 0 is the rate of the first. Warm-up lasts settings.warmup_steps
    updates when above 0, else settings.warmup_epochs; the cosine has the rest of settings.epochs.
    """
    total = settings.epochs * steps_per_epoch
    warmup = settings.warmup_steps if settings.warmup_steps > 0 else round(settings.warmup_epochs * steps_per_epoch)
    if warmup >= total > 0:
        _logger.warning(
            "the warm-up of %d updates takes all %d updates of the run: the peak learning rate is never "
            "left; lower --warmup_epochs or --warmup_steps",
            warmup,
            total,
        )
    return CosineLRScheduler(
        optimizer,
        t_initial=max(total - warmup, 1),
        lr_min=rates.minimum,
        warmup_t=warmup,
        warmup_lr_init=rates.warmup,
        warmup_prefix=True,
        t_in_epochs=False,
    )
