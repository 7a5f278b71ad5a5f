"""Optimizer and learning rate schedule: weight decay rules, layer-wise learning rate decay, cosine with warm-up."""

import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler

from engines.settings import BatchSettings, OptimizerSettings, ScheduleSettings

_logger = logging.getLogger(__name__)

# Parameters that the layer decay of the published code applies to; the temporal positions are not among them.
_EMBEDDINGS = re.compile(r"(^|\.)(patch_embed\.|pos_embed$|cls_token$)")


@dataclass(frozen=True)
class LearningRates:
    """The scaled learning rates of a run, and its clips per optimizer step."""

    peak: float
    minimum: float
    warmup: float
    clips_per_update: int


def scale_learning_rates(settings: BatchSettings, world_size: int) -> LearningRates:
    """Scale the learning rates linearly with the clips per optimizer step, as the published recipes do.

    clips per step = batch_size x processes x update_freq x num_sample; the factor is this number divided by `lr_base`
    (256 for video). Without `scale_min_lr`, min_lr and warmup_lr are not scaled (as in the ImageNet recipe, whose
    lr_base is 512). With `lr_absolute`, none of the three is.
    """
    clips = settings.batch_size * world_size * settings.update_freq * settings.num_sample
    factor = 1.0 if settings.lr_absolute else clips / settings.lr_base
    other = factor if settings.scale_min_lr else 1.0
    rates = LearningRates(settings.lr * factor, settings.min_lr * other, settings.warmup_lr * other, clips)
    _logger.info(
        "%d clips per step (batch size %d x %d processes x %d accumulated batches x %d clips per video): lr %g, "
        "min %g, warm-up from %g",
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
            "--min_lr %g is above the peak learning rate %g after scaling: the learning rate will rise, not fall; "
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
    """Return the names of the parameters without weight decay; one-dimensional parameters never have any.

    They are those in `model.no_weight_decay()`, those with a `_no_weight_decay` attribute (Mamba's A_log and D), and
    those whose names end in ".bias".
    """
    names = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    for name, parameter in model.named_parameters():
        if getattr(parameter, "_no_weight_decay", False) or name.endswith(".bias"):
            names.add(name)
    return names


def layer_scales(model: Any, layer_decay: float, scope: str) -> dict[str, float]:
    """Compute the learning rate factor of every parameter.

    Args:
        model: bare module with timm's `group_matcher()`, which numbers the layers.
        layer_decay: factor per layer below the head.
        scope: "layers" decays with depth, as in VideoMAE and BEiT: the head has 1, the last block `layer_decay`, the
            embeddings layer_decay^(depth + 1). "embeddings" gives patch_embed, pos_embed and cls_token this last
            factor and all other parameters 1, as the published code of VideoMamba and VideoMambaPro does: its line
            for the layers is commented out, and all published results were trained this way.

    Returns:
        parameter name -> factor.

    Raises:
        ValueError: the model has no `group_matcher`.
    """
    if not hasattr(model, "group_matcher"):
        raise ValueError(
            f"--layer_decay {layer_decay} needs a model with group_matcher(), which this one does not have; "
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
    """Sort the trainable parameters into optimizer groups.

    Args:
        model: bare module, not wrapped for parallel training.
        weight_decay: for all parameters but one-dimensional ones and those of `no_weight_decay_names`.
        layer_decay: see `layer_scales`, whose factors become the groups' "lr_scale"; 1 for none.
        scope: see `layer_scales`.

    Raises:
        ValueError: layer decay with a model that has no `group_matcher`.
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
        groups += [{**group, "params": parameters, "lr_scale": scale} for scale, parameters in by_scale.items()]
    return groups


def create_optimizer(
    model: Any,
    settings: OptimizerSettings,
    lr: float,
    groups: list[dict] | None = None,
    *,
    on_device: bool = False,
) -> torch.optim.Optimizer:
    """Create the optimizer `settings.opt` of timm's registry for `parameter_groups`.

    Epsilon, betas and momentum are passed to the optimizers that have them.

    Args:
        model: bare module, not wrapped for parallel training.
        settings: of the optimizer.
        lr: peak learning rate.
        groups: with learning rates and weight decays of their own, instead of `parameter_groups`.
        on_device: let Adam and AdamW take a step in one kernel that decides on the device whether to change anything.
    """
    groups = groups or parameter_groups(
        model, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay, scope=settings.layer_decay_scope
    )
    scales = [group.get("lr_scale", 1.0) for group in groups]
    if settings.opt.lower() == "adahessian":
        raise ValueError("--opt adahessian needs second derivatives, which a run does not compute; choose another")
    fused: dict[str, Any] = {}
    if on_device and settings.opt.lower() in ("adam", "adamw"):
        fused = dict(fused=True, capturable=True)
    _logger.info(
        "%s: %d parameter groups, weight decay %g, layer factors %.3g to %.3g",
        settings.opt,
        len(groups),
        settings.weight_decay,
        min(scales),
        max(scales),
    )
    try:
        return create_optimizer_v2(
            groups,
            opt=settings.opt,
            lr=lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            eps=settings.opt_eps,
            betas=tuple(settings.opt_betas),
            **fused,
        )
    except (AssertionError, IndexError, TypeError) as error:  # Adan needs three betas, others a GPU or a package
        raise ValueError(
            f"--opt {settings.opt} cannot be created with --opt_betas {' '.join(map(str, settings.opt_betas))} here: "
            f"{error or type(error).__name__}"
        ) from error


def decides_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a step reads on the device, from `found_inf`, whether to change anything."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def create_schedule(
    optimizer: torch.optim.Optimizer, settings: ScheduleSettings, rates: LearningRates, steps_per_epoch: int
) -> CosineLRScheduler:
    """Create the schedule: linear warm-up from rates.warmup to the peak, then half a cosine down to rates.minimum.

    Call `step_update(n)` after the n-th optimizer step; n = 0 gives the learning rate of the first one. The warm-up
    lasts settings.warmup_steps steps if above 0, else settings.warmup_epochs; the cosine takes the rest of the epochs.
    """
    total = settings.epochs * steps_per_epoch
    warmup = settings.warmup_steps if settings.warmup_steps > 0 else round(settings.warmup_epochs * steps_per_epoch)
    if warmup >= total > 0:
        _logger.warning(
            "the warm-up of %d steps takes all %d steps of the run, so the learning rate never decays; "
            "lower --warmup_epochs or --warmup_steps",
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
