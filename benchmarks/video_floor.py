"""Accuracy of a regression without any network, on colours, on frame differences, and on both.

    python -m benchmarks.video_floor --data_path LISTS --data_root VIDEOS

A network that is not better than this floor has learned nothing about actions. The frames and crops are those of a
test with one segment. Chance and the share of the largest class are printed, too.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from common.flag_parser import FlagParser
from datasets.arguments import DataSettings, add_data_arguments
from datasets.build import build_dataset, build_loader
from datasets.lists import find_list_of

GRID, BINS, MOST_FOLDS = 4, 8, 5
STRENGTHS = np.logspace(-4, 1, 6)  # C of the regression, chosen by cross-validation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    add_data_arguments(parser)
    parser.set_defaults(num_frames=8, input_size=96, short_side_size=96, sampling="sparse", test_num_segment=1,
                        num_workers=0)  # fmt: skip
    train, test = read_train_and_test(DataSettings.from_flags(parser.parse_args(arguments)))
    for name, accuracy in video_floor(*train, *test).items():
        print(f"{name:18} {accuracy:5.1f} %")
    return 0


Videos = tuple[Tensor, np.ndarray]
"""Clips (videos, views, C, T, H, W) uint8, and labels (videos,)."""


def read_train_and_test(data: DataSettings) -> tuple[Videos, Videos]:
    """Read the training and the test list, both with the views of a test; videos that cannot be read are left out."""
    lists = [str(find_list_of(mode, data)) for mode in ("train", "test")]
    train, test = (_read(replace(data, test_list=name, gpu_transforms=True)) for name in lists)
    return train, test


def _read(data: DataSettings) -> Videos:
    batches = list(build_loader(build_dataset("test", data), "test", data))
    clips = torch.cat([batch["clips"] for batch in batches])
    return clips, np.concatenate([np.asarray(batch["targets"]) for batch in batches])


def video_floor(clips: Tensor, labels: np.ndarray, test_clips: Tensor, test_labels: np.ndarray) -> dict[str, float]:
    """Return the accuracies of chance, the largest class and the three regressions, in percent.

    Args:
        clips: Training clips, uint8 (videos, views, C, T, H, W).
        labels: Training labels (videos,).
        test_clips: Test clips, in the same form.
        test_labels: Test labels (videos,).
    """
    scores = {
        "chance": 100 / len(np.unique(labels)),
        "largest class": 100 * float(np.mean(test_labels == np.bincount(labels).argmax())),
    }
    colours, test_colours = colour_features(clips), colour_features(test_clips)
    motion, test_motion = motion_features(clips), motion_features(test_clips)
    for name, features, test_features in (
        ("colours", colours, test_colours),
        ("frame differences", motion, test_motion),
        ("both", np.hstack([colours, motion]), np.hstack([test_colours, test_motion])),
    ):
        scores[name] = 100 * float(np.mean(regress(features, labels, test_features) == test_labels))
    return scores


def colour_features(clips: Tensor) -> np.ndarray:
    """Return mean and spread of the colours per grid cell, and a histogram per channel, (videos, features)."""
    values = clips.float() / 255  # (videos, views, C, T, H, W)
    fields = F.adaptive_avg_pool2d(values.mean((1, 3)), GRID).flatten(1)
    spread = F.adaptive_avg_pool2d(values.std(3, correction=0).mean(1), GRID).flatten(1)
    bins = (values * BINS).long().clamp(max=BINS - 1)
    histogram = torch.stack([(bins == i).float().mean((1, 3, 4, 5)) for i in range(BINS)], -1).flatten(1)
    return torch.cat([fields, spread, histogram], 1).numpy()


def motion_features(clips: Tensor) -> np.ndarray:
    """Return frame differences per grid cell and per time step, and their histogram, (videos, features)."""
    grey = clips.float().mean(2) / 255  # (videos, views, T, H, W)
    change = grey.diff(dim=2).abs()
    fields = F.adaptive_avg_pool2d(change.mean((1, 2)), GRID).flatten(1)
    edges = [2.0**-i for i in range(BINS)]
    histogram = torch.stack([(change < edge).float().mean((1, 2, 3, 4)) for edge in edges], -1)
    return torch.cat([fields, change.mean((1, 3, 4)), histogram], 1).numpy()


def regress(features: np.ndarray, labels: np.ndarray, test_features: np.ndarray) -> np.ndarray:
    """Predict the test classes by softmax regression, with the regularisation chosen by cross-validation."""
    folds = min(MOST_FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        model = pipeline.set_params(logisticregression__C=1.0)
        if folds > 1:
            split = StratifiedKFold(folds, shuffle=True, random_state=0)
            model = GridSearchCV(pipeline, {"logisticregression__C": STRENGTHS}, cv=split)
        return model.fit(features, labels).predict(test_features)


if __name__ == "__main__":
    raise SystemExit(main())
