"""Command-line flags of the model and of the weights it starts from."""

import argparse

from common.flag_types import non_negative_int, positive_int, proper_fraction
from mamba.mamba_ssm.modules.mamba_simple import BIMAMBA_TYPES
from mamba.mamba_ssm.ops.selective_scan.reference import SCAN_INPUTS
from models.initialisation import DT_INITS


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `build_model` and `load_finetune_checkpoint` read; a switch left out is the model's own."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="videomambapro_tiny", metavar="NAME", help="a registered model: %(default)s")
    group.add_argument(
        "--tubelet_size", type=positive_int, default=1, help="frames of a tubelet (default: %(default)s)"
    )
    group.add_argument(
        "--drop", type=proper_fraction, default=0.0, help="dropout after the positions (default: %(default)s)"
    )
    group.add_argument(
        "--drop_path", type=proper_fraction, default=0.1, help="stochastic depth rate (default: %(default)s)"
    )
    group.add_argument(
        "--fc_drop_rate", type=proper_fraction, default=0.0, help="dropout before the head (default: %(default)s)"
    )
    group.add_argument(
        "--use_checkpoint", action="store_true", help="recompute blocks in the backward pass: less memory"
    )
    group.add_argument(
        "--checkpoint_num", type=non_negative_int, default=0, help="how many blocks, from the first (default: 0)"
    )

    method = parser.add_argument_group("method (default: as the model is registered)")
    on_or_off = argparse.BooleanOptionalAction
    method.add_argument("--elemental_residual", action=on_or_off, help="each scan starts from its first input")
    method.add_argument("--masked_backward", action=on_or_off, help="the backward scan does not read the token itself")
    method.add_argument("--bimamba_type", choices=BIMAMBA_TYPES, help="v1 shares the projections, v2 has them twice")
    method.add_argument("--scan_input", choices=SCAN_INPUTS, help="what the scan reads; raw as the published code ran")
    method.add_argument("--dt_init", choices=DT_INITS, help="initial step sizes (see models/initialisation.py)")
    method.add_argument("--backend", metavar="NAME", help="backend of the scan (default: the fastest available)")

    weights = parser.add_argument_group("initial weights")
    weights.add_argument(
        "--finetune", default="", metavar="FILE", help="checkpoint to start from, .pth or .safetensors"
    )
    weights.add_argument(
        "--allow_random", action="store_true", help="let tensors missing in --finetune stay random instead of stopping"
    )
