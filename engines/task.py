"""What differs between the run scripts; engines/run.py has the steps that they share."""

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
from models.describe import describe_checkpoint


def describe_teacher(flags: argparse.Namespace, model: Any) -> None:
    """Check that --teacher is a checkpoint of this family; raises the errors of `describe_checkpoint`."""
    describe_checkpoint(flags.teacher)


@dataclass(frozen=True)
class Task:
    """Flags, data and objective of a run script. The defaults read labelled clips.

    Attributes:
        script: File name of the script.
        get_parser: Creates the parser of its flags.
        create_objective: Called with the model, the flags, the test dataset or None, and the training dataset or None.
        read_settings: Takes the settings of the data from the flags.
        build_dataset: Called with a mode and these settings.
        build_loader: Called with a dataset, its mode, these settings, `rank` and `world_size`.
        test_mode: Mode of the dataset to test. With "validation", every run validates, too.
        always_tests: Whether a run without validation is tested; if not, it needs no list but the training list.
        check_teacher: Checks --teacher in a dry run; called with the flags and the model.
    """

    script: str
    get_parser: Callable[[], argparse.ArgumentParser]
    create_objective: Callable[[Any, argparse.Namespace, Any, Any], Objective]
    read_settings: Callable[[argparse.Namespace], Any] = DataSettings.from_flags
    build_dataset: Callable[[Mode, Any], ClipDataset] = build_dataset
    build_loader: Callable[..., ClipLoader] = build_loader
    test_mode: Mode = "test"
    always_tests: bool = True
    check_teacher: Callable[[argparse.Namespace, Any], Any] = describe_teacher

    def modes(self, settings: RunSettings) -> Sequence[Mode]:
        """Return the modes of the datasets that a run reads."""
        if settings.eval:
            return [self.test_mode]
        if not self.always_tests and settings.disable_eval_during_finetuning:
            return ["train"]
        validates = self.test_mode == "validation" or not settings.disable_eval_during_finetuning
        modes: list[Mode] = ["train", "validation", self.test_mode] if validates else ["train", self.test_mode]
        return list(dict.fromkeys(modes))
