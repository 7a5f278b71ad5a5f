"""Outputs of the published code, read from tests/data: see the README there."""

import json
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / "data"


def golden_cases(name: str) -> list[dict]:
    """The cases of NAME.json, each with its parameters."""
    return json.loads((DATA / f"{name}.json").read_text())


def golden_tensors(name: str, case: str) -> dict[str, torch.Tensor]:
    """The arrays of one case of NAME.npz by name."""
    with np.load(DATA / f"{name}.npz") as arrays:
        prefix = f"{case}/"
        return {key[len(prefix) :]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(prefix)}
