"""Command-line flags of training and testing, with the names used by VideoMAE and VideoMamba.

Each flag is a field of the settings dataclass of the component that uses it; this module only collects them.
"""

import argparse

from common.flag_parser import FlagParser
from common.settings import add_options
from datasets.arguments import add_data_arguments
from datasets.teacher_outputs import StoredTeacherSettings
from engines.loss_settings import add_loss_arguments
from engines.recipe_flags import add_recipe_arguments
from engines.settings import (
    AverageSettings,
    CheckpointSettings,
    DeviceSettings,
    LogSettings,
    OptimizerSettings,
    ParallelSettings,
    ScheduleSettings,
    TestSettings,
)
from models.arguments import add_model_arguments

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


def classifier_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of a classifier's training and testing."""
    parser = FlagParser(description=description)
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_engine_arguments(parser)
    add_loss_arguments(parser)
    add_options(parser.add_argument_group("distillation from a stored teacher"), StoredTeacherSettings)
    add_recipe_arguments(parser)
    return parser
