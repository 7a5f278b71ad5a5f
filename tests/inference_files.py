"""Checkpoints and videos for the tests of inference."""

from pathlib import Path

import numpy as np
import torch
from video_files import write_video

from models.videomambapro import NANO, VideoMambaPro

CLASSES = 7
FLAGS = {
    "model": "videomambapro_nano",
    "data_set": "custom",
    "num_frames": 4,
    "sampling_rate": 2,
    "input_size": 32,
    "test_num_segment": 2,
    "test_num_crop": 3,
}


def save_checkpoint(path: Path, classes: int = CLASSES, **flags) -> Path:
    """Write weights and flags as our runs do: random weights, with a head that distinguishes clips."""
    torch.manual_seed(0)
    model = VideoMambaPro(img_size=32, num_frames=4, num_classes=classes, dt_init="mamba", **NANO).eval()
    clips = [moving_frames(4, 32, 32, seed=seed).transpose(3, 0, 1, 2) for seed in range(8)]
    with torch.no_grad():
        for layer in model.layers:
            # As initialised, the class token hears next to nothing of the others.
            for weight in (layer.mixer.in_proj.weight, layer.mixer.x_proj.weight, layer.mixer.out_proj.weight):
                weight *= 3
        features = model.forward_features(torch.from_numpy(np.stack(clips)).float() / 64 - 2)
        logits = features @ model.head.weight.T
        scale = 1.5 / logits.std(0, keepdim=True).T
        model.head.weight *= scale
        model.head.bias.copy_(-(logits.mean(0) * scale[:, 0]))
    torch.save({"model": model.state_dict(), "args": FLAGS | flags, "epoch": 1}, path)
    return path


OBJECTIVES = {
    "multilabel": {"decision_threshold": torch.tensor(0.37)},
    "regression": {
        "target_mean": torch.linspace(-1, 300, CLASSES, dtype=torch.float64),
        "target_scale": torch.linspace(0.1, 7, CLASSES, dtype=torch.float64),
    },
}
"""What runs of a task keep beside the weights, here for a head of `CLASSES` outputs."""


def save_checkpoint_of(task: str, path: Path, **flags) -> Path:
    """Write a checkpoint as runs of `task` do."""
    save_checkpoint(path, task=task, **flags)
    content = torch.load(path, weights_only=True)
    content["model"] |= OBJECTIVES[task]
    torch.save(content, path)
    return path


def moving_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Create changing frames uint8 (count, height, width, 3): smooth colour noise that fades to other noise."""
    rng = np.random.default_rng(seed)
    first, last = (np.kron(rng.integers(0, 256, (height // 8, width // 8, 3)), np.ones((8, 8, 1))) for _ in "ab")
    shares = np.linspace(0, 1, count)[:, None, None, None]
    return np.rint((1 - shares) * first + shares * last).astype(np.uint8)


def write_moving_video(path: Path, count: int = 24, seed: int = 0, **size) -> Path:
    """Write `moving_frames` as an H.264 file."""
    return write_video(path, moving_frames(count, seed=seed, **size))
