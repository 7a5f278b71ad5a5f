"""What distinguishes one run script from another; engines/run.py is the story that they share."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.arguments import DataSettings
from datasets.build import build_dataset, build_loader
from datasets.clip_dataset import ClipDataset
from datasets.loader import ClipLoader
from datasets.sampling import Mode
from engines.objectives.base import Objective
from engines.settings import RunSettings


@dataclass(frozen=True)
class Task:
    """What a run script has of its own; the defaults are those of labelled clips.

    Attributes:
        script: its file name.
        get_parser: makes the parser of its flags.
        create_objective: from the model, the flags, the data set of the test and that of the training (None in a run
            that only tests).
        read_settings: takes the settings of the data from the flags.
        build_dataset: from a mode and those settings.
        build_loader: from a data set, its mode, those settings, `rank` and `world_size`.
        test_mode: what is tested after training. A task that tests what it validates with validates in every run.
    """

    script: str
    get_parser: Callable[[], argparse.ArgumentParser]
    create_objective: Callable[[Any, argparse.Namespace, Any, Any], Objective]
    read_settings: Callable[[argparse.Namespace], Any] = DataSettings.from_flags
    build_dataset: Callable[[Mode, Any], ClipDataset] = build_dataset
    build_loader: Callable[..., ClipLoader] = build_loader
    test_mode: Mode = "test"

    def modes(self, settings: RunSettings) -> Sequence[Mode]:
        """Name the lists that a run reads, each once."""
        if settings.eval:
            return [self.test_mode]
        validates = self.test_mode == "validation" or not settings.disable_eval_during_finetuning
        modes: list[Mode] = ["train", "validation", self.test_mode] if validates else ["train", self.test_mode]
        return list(dict.fromkeys(modes))
