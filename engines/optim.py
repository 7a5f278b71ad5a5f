"""Optimiser and learning-rate schedule: no-decay rules, layer-wise learning-rate decay, cosine with warm-up."""

import logging
import re
from collections import defaultdict
from dataclasses import dataclass

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

_logger = logging.getLogger(__name__)

LAYER_DECAY_SCOPES = ("embeddings", "layers")
# What the published code's layer decay reaches; it leaves the temporal positions alone.
_EMBEDDINGS = re.compile(r"(^|\.)(patch_embed\.|pos_embed$|cls_token$)")


@dataclass(frozen=True)
class LearningRates:
    """Learning rates of a run after scaling, and the clips per update they are for."""

    peak: float
    minimum: float
    warmup: float
    clips_per_update: int


def scale_learning_rates(args, world_size: int) -> LearningRates:
    """Scale args.lr, .min_lr and .warmup_lr linearly with the clips per update, as the published recipes do.

    clips per update = batch_size x processes x update_freq x num_sample; the factor is that over args.lr_base (256 for
    video). args.scale_min_lr = False leaves min_lr and warmup_lr alone (the ImageNet recipe, which also has base 512).
    """
    samples = getattr(args, "num_sample", 1)
    clips = args.batch_size * world_size * args.update_freq * samples
    factor = clips / args.lr_base
    other = factor if args.scale_min_lr else 1.0
    rates = LearningRates(args.lr * factor, args.min_lr * other, args.warmup_lr * other, clips)
    _logger.info(
        "%d clips per update (batch %d x %d processes x %d batches x %d samples of a video): lr %g, min %g, "
        "warm-up from %g",
        clips,
        args.batch_size,
        world_size,
        args.update_freq,
        samples,
        rates.peak,
        rates.minimum,
        rates.warmup,
    )
    if rates.minimum > rates.peak:
        _logger.warning(
            "--min_lr %g is above the peak learning rate %g after scaling: the rate will rise, not fall; "
            "lower --min_lr or raise --lr",
            rates.minimum,
            rates.peak,
        )
    return rates


def no_weight_decay_names(model: nn.Module) -> set[str]:
    """Names of the parameters that go without weight decay, beside those of one dimension.

    They come from `model.no_weight_decay()`, from a `_no_weight_decay` attribute on the parameter (Mamba's A_log and
    D) and from names that end in ".bias".
    """
    names = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    for name, parameter in model.named_parameters():
        if getattr(parameter, "_no_weight_decay", False) or name.endswith(".bias"):
            names.add(name)
    return names


def layer_scales(model: nn.Module, layer_decay: float, scope: str) -> dict[str, float]:
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
            f"--layer_decay {layer_decay} needs a model with group_matcher(), which "
            f"{type(model).__name__} has not; use --layer_decay 1"
        )
    layer_of = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    head = max(layer_of.values())
    by_position = {name: layer_decay ** (head - layer_of.get(name, head)) for name, _ in model.named_parameters()}
    if scope == "layers":
        return by_position
    return {name: scale if _EMBEDDINGS.search(name) else 1.0 for name, scale in by_position.items()}


def parameter_groups(
    model: nn.Module, *, weight_decay: float, layer_decay: float = 1.0, scope: str = "embeddings"
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


def create_optimizer(model: nn.Module, args, lr: float) -> torch.optim.Optimizer:
    """Build the optimiser that args.opt names (timm's registry) over `parameter_groups`, with peak rate `lr`.

    Epsilon, betas and momentum go to the optimisers that have them.
    """
    groups = parameter_groups(
        model, weight_decay=args.weight_decay, layer_decay=args.layer_decay, scope=args.layer_decay_scope
    )
    scales = [group.get("lr_scale", 1.0) for group in groups]
    _logger.info(
        "%s: %d parameter groups, weight decay %g, layer factors %.3g to %.3g",
        args.opt,
        len(groups),
        args.weight_decay,
        min(scales),
        max(scales),
    )
    return create_optimizer_v2(
        groups,
        opt=args.opt,
        lr=lr,
        weight_decay=args.weight_decay,
        momentum=args.momentum,
        eps=args.opt_eps,
        betas=tuple(args.opt_betas),
    )


def create_schedule(
    optimizer: torch.optim.Optimizer, args, rates: LearningRates, steps_per_epoch: int
) -> CosineLRScheduler:
    """Linear warm-up from rates.warmup to the peak, then half a cosine down to rates.minimum, one step per update.

    Call `step_update(n)` after the n-th update; n = 0 is the rate of the first. Warm-up lasts args.warmup_steps
    updates when above 0, else args.warmup_epochs; the cosine has the rest of args.epochs.
    """
    total = args.epochs * steps_per_epoch
    warmup = args.warmup_steps if args.warmup_steps > 0 else round(args.warmup_epochs * steps_per_epoch)
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
