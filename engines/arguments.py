"""Command-line flags of training and testing, with the names used by VideoMAE and VideoMamba.

Each flag is a field of the settings dataclass of the component that uses it; this module only collects them.
"""

import argparse

from common.settings import add_options
from engines.distributed import DeviceSettings
from engines.logs import LogSettings
from engines.optim import AverageSettings, OptimizerSettings, ScheduleSettings
from engines.parallel import ParallelSettings
from engines.settings import CheckpointSettings, TestSettings

_GROUPS = {
    "logs and results": LogSettings,
    "device": DeviceSettings,
    "parallel training and compilation": ParallelSettings,
    "optimizer": OptimizerSettings,
    "learning rate schedule (one value per optimizer step)": ScheduleSettings,
    "EMA (exponential moving average of the weights)": AverageSettings,
    "checkpoints": CheckpointSettings,
    "evaluation": TestSettings,
}


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that engines/ reads to `parser`, in one group per component."""
    for title, settings in _GROUPS.items():
        add_options(parser.add_argument_group(title), settings)
