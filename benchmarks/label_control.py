"""The control of whatever learns labels: the same records with labels that say nothing about them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from datasets.annotations import Record


def shuffle_labels(records: Sequence[Record], rng: np.random.Generator) -> list[Record]:
    """Return the records in their order, each with the label of another drawn one; every label stays as frequent."""
    order = rng.permutation(len(records))
    return [replace(record, target=records[other].target) for record, other in zip(records, order, strict=True)]
