"""Evaluation without a head: whether the nearest neighbours of a clip, by the model's features, have its class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.objectives.base import Objective, Score

NEIGHBOURS = 5
FEATURES = ("knn", "knn_patches")


class Neighbours(Objective):
    """A model whose features are tested by k nearest neighbours within a labelled list.

    Every clip is classified by the others, so that the list is not split and nothing is trained. Two kinds of features
    are tested: the class token, which a fine-tuned head will read, and the mean of the patches.
    """

    score = Score("knn")

    def predict(self, clips: Tensor) -> Tensor:
        """Return both features of single views, of unit length, float32: (n, 2, width)."""
        model: Any = self.model
        tokens = model.forward_tokens(clips).float()
        return F.normalize(torch.stack([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1), dim=-1)

    def figures(self, outputs: np.ndarray, records: Sequence) -> dict[str, float]:
        """Return the accuracy with either kind of feature, and the share of the most frequent class, in percent.

        Args:
            outputs: (videos, 2, width).
            records: Each `target` is a class.

        Raises:
            ValueError: There are fewer than two videos.
        """
        labels = np.array([record.target for record in records])
        if len(labels) < 2:
            raise ValueError("--probe_list needs two readable videos at least, to compare them with each other")
        accuracies = {name: leave_one_out_accuracy(outputs[:, place], labels) for place, name in enumerate(FEATURES)}
        return accuracies | {"majority": 100.0 * float(np.bincount(labels).max() / len(labels))}

    def describe(self, figures: dict[str, float]) -> str:
        """Format the accuracies for a log line."""
        return (
            f"nearest neighbours {figures['knn']:.2f} % by class token, {figures['knn_patches']:.2f} % by patches "
            f"(most frequent class {figures['majority']:.2f} %)"
        )


def leave_one_out_accuracy(features: np.ndarray, labels: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """Classify every row by its nearest neighbours among the others; return the accuracy in percent.

    A neighbour's vote is 1 + its cosine similarity, so that ties go to the nearer ones.

    Args:
        features: (rows, width), at least two rows.
        labels: (rows,) classes from 0.
        neighbours: Number of neighbours; fewer where there are fewer other rows.
    """
    from sklearn.neighbors import NearestNeighbors  # the import takes a second

    search = NearestNeighbors(n_neighbors=min(neighbours, len(features) - 1), metric="cosine").fit(features)
    distances, found = search.kneighbors()  # without arguments, a row is not its own neighbour
    votes = np.zeros((len(features), labels.max() + 1))
    np.add.at(votes, (np.arange(len(features))[:, None], labels[found]), 2 - distances)
    return 100.0 * float((votes.argmax(1) == labels).mean())
