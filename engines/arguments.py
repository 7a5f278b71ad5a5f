"""Command-line flags of the training and test loop, with the names VideoMAE and VideoMamba users know.

Each flag is a field of the settings of the component that uses it; here they are only put together.
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
    "several processes, and compiling": ParallelSettings,
    "optimiser": OptimizerSettings,
    "learning-rate schedule (one step per optimiser update)": ScheduleSettings,
    "moving average of the weights": AverageSettings,
    "checkpoints": CheckpointSettings,
    "evaluation": TestSettings,
}


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags read by engines/ to `parser`, in one titled group per component."""
    for title, settings in _GROUPS.items():
        add_options(parser.add_argument_group(title), settings)
