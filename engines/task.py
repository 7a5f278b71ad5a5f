"""The differences between run scripts; engines/run.py contains what they share."""

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
    """The parts of a run that depend on the run script; the defaults are those of labelled clips.

    Attributes:
        script: file name of the run script.
        get_parser: creates the parser of its flags.
        create_objective: creates the objective from model, flags, test data and training data (None in a run that
            only tests).
        read_settings: creates the settings of the data from the flags.
        build_dataset: builds the data set of a mode from these settings.
        build_loader: builds the dataloader from a data set, its mode, these settings, `rank` and `world_size`.
        test_mode: mode of the test. If it is "validation", every run validates.
    """

    script: str
    get_parser: Callable[[], argparse.ArgumentParser]
    create_objective: Callable[[Any, argparse.Namespace, Any, Any], Objective]
    read_settings: Callable[[argparse.Namespace], Any] = DataSettings.from_flags
    build_dataset: Callable[[Mode, Any], ClipDataset] = build_dataset
    build_loader: Callable[..., ClipLoader] = build_loader
    test_mode: Mode = "test"

    def modes(self, settings: RunSettings) -> Sequence[Mode]:
        """Return the modes whose lists a run reads, without repetitions."""
        if settings.eval:
            return [self.test_mode]
        validates = self.test_mode == "validation" or not settings.disable_eval_during_finetuning
        modes: list[Mode] = ["train", "validation", self.test_mode] if validates else ["train", self.test_mode]
        return list(dict.fromkeys(modes))
