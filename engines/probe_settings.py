"""Flags of a probe, a classifier trained on a frozen model, and what they imply for the other flags of a run."""

import argparse
import logging
from dataclasses import dataclass
from itertools import product

from common.flag_types import non_negative, positive
from common.settings import option

_logger = logging.getLogger(__name__)

LINEAR, ATTENTIVE = "linear", "attentive"


@dataclass(frozen=True)
class ProbeSettings:
    """The kind of probe and its grid of learning rates and weight decays; the defaults are V-JEPA 2's.

    The probes of the grid are trained side by side on the same features. The best on a tenth of the training list,
    which is held out for that, is tested.
    """

    probe: str = option(
        "",
        "train only a classifier on the frozen --finetune FILE: linear, of the class token after a BatchNorm without "
        "affine, or attentive, whose learned query reads all tokens (docs/features.md)",
        choices=(LINEAR, ATTENTIVE),
    )
    probe_lrs: tuple[float, ...] = option(
        (5e-3, 3e-3, 1e-3, 3e-4, 1e-4), "peak learning rates of the grid of --probe, as typed", positive, nargs="+"
    )
    probe_weight_decays: tuple[float, ...] = option(
        (0.01, 0.1, 0.4, 0.8), "weight decays of the grid of --probe", non_negative, nargs="+"
    )

    @property
    def grid(self) -> list[tuple[float, float]]:
        """The pairs of learning rate and weight decay."""
        return list(product(self.probe_lrs, self.probe_weight_decays))


_ALLOWED = {"freeze": ("", "all"), "teacher_scores": ("",), "parallel": ("ddp",), "task": ("classification",)}
# What a probe is trained without: mixed or smoothed labels, and a norm of gradients that belong to different probes.
_WITHOUT = {"mixup": 0.0, "cutmix": 0.0, "cutmix_minmax": None, "smoothing": 0.0, "clip_grad": None}


def settle_probe(flags: argparse.Namespace) -> None:
    """Complete the flags of a run with --probe; those of other runs and of tests stay as they are.

    Raises:
        ValueError: A flag contradicts --probe.
    """
    if not flags.probe or flags.eval:
        return
    if not (flags.finetune or flags.resume):
        raise ValueError(f"--probe {flags.probe} would freeze random weights; add --finetune FILE")
    for name, values in _ALLOWED.items():
        given = getattr(flags, name, values[0])
        if given not in values:
            raise ValueError(f"--probe {flags.probe} contradicts --{name} {given}: leave one of them out")
    if flags.disable_eval_during_finetuning:
        raise ValueError("--probe chooses from its grid by validation: leave out --disable_eval_during_finetuning")
    if flags.probe == LINEAR and flags.cuda_graph:
        raise ValueError("--cuda_graph: the BatchNorm of --probe linear counts on the host; use one of the two")
    if flags.probe == LINEAR and flags.attentive_depth:
        raise ValueError("--attentive_depth belongs to --probe attentive; a linear probe reads the class token")
    depth = (flags.attentive_depth or 1) if flags.probe == ATTENTIVE else 0
    implied = _WITHOUT | {"freeze": "all", "delete_head": True, "attentive_depth": depth}
    vars(flags).update({name: value for name, value in implied.items() if name in flags})
    _logger.info(
        "--probe %s: everything but the classifier is frozen, without mixing, label smoothing and gradient clipping; "
        "a tenth of the training list is held out and chooses among %d pairs of learning rate and weight decay, which "
        "replace --lr, --weight_decay and --layer_decay",
        flags.probe,
        len(flags.probe_lrs) * len(flags.probe_weight_decays),
    )
