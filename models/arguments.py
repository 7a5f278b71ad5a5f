"""Command-line flags of the model and of the weights it starts from."""

import argparse

from models.config import Setting
from models.videomambapro import VideoMambaPro


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `build_model` and `load_finetune_checkpoint` read.

    Those of the model are the fields of `VideoMambaPro.config_class`; one that is left out is the checkpoint's, or
    else as the model is registered.
    """
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="videomambapro_tiny", metavar="NAME", help="a registered model: %(default)s")
    named = parser.add_argument_group("method and sizes (default: as the model is registered)")
    for setting in flagged_settings():
        if not setting.from_data:
            _add_flag(named if setting.by_name else group, setting)

    weights = parser.add_argument_group("initial weights")
    weights.add_argument(
        "--finetune", default="", metavar="FILE", help="checkpoint to start from, .pth or .safetensors"
    )
    weights.add_argument(
        "--allow_random", action="store_true", help="let tensors missing in --finetune stay random instead of stopping"
    )


def flagged_settings() -> list[Setting]:
    """The fields of the model's configuration that have a flag, here or among those of the data."""
    return [setting for setting in VideoMambaPro.config_class.settings() if setting.flag]


def _add_flag(group, setting: Setting) -> None:
    default = None if setting.by_name else setting.default
    text = setting.help if default is None or isinstance(default, bool) else f"{setting.help} (default: %(default)s)"
    if isinstance(setting.default, bool):
        kind: dict = dict(action=argparse.BooleanOptionalAction)
    elif setting.choices:
        kind = dict(choices=setting.choices)
    else:
        kind = dict(type=setting.type)
    group.add_argument(f"--{setting.flag}", default=default, help=text, **kind)
