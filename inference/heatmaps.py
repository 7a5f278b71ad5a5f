"""Heat maps: where in the pictures, and when, lies what the model's answer rests on.

`explain.relevance` gives every token of a clip a share of the answer; here those shares are laid over the frames they
came from, all crops and all windows together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from PIL import Image

from explain.relevance import token_relevance
from inference.predictor import Predictor

COLOURS = matplotlib.colormaps["inferno"]
STRONGEST = 0.65  # how much of the picture the highest relevance hides
CLIPS_PER_BACKWARD = 2  # the gradient keeps every layer's activations


@dataclass(frozen=True)
class HeatTrack:
    """Relevance over the time of a video.

    Attributes:
        times: (m,) frame numbers, rising; of a tubelet, the mean of its frames.
        frames: (m,) a frame of each tubelet, the first.
        maps: (m, crops, rows, columns) float32, relevance of the patches; all tubelets of a clip sum to 1.
        crop_share: side of a crop over the short side of the picture.
    """

    times: np.ndarray
    frames: np.ndarray
    maps: np.ndarray
    crop_share: float = 1.0

    @property
    def scale(self) -> float:
        """The relevance that is drawn strongest: all but the highest hundredth lie below."""
        return float(max(np.quantile(self.maps, 0.99), np.finfo(np.float32).tiny))

    def at(self, frame: float) -> np.ndarray:
        """Maps (crops, rows, columns) at a frame: linear between the times, constant outside of them."""
        place = np.interp(frame, self.times, np.arange(len(self.times)))
        before = int(place)
        after = min(before + 1, len(self.times) - 1)
        return (1 - (place - before)) * self.maps[before] + (place - before) * self.maps[after]

    def overlay(self, picture: np.ndarray, frame: float) -> np.ndarray:
        """Lay the relevance at a frame over its picture, uint8 (H, W, 3) of any size: uint8 (H, W, 3)."""
        heat = spread(self.at(frame), *picture.shape[:2], self.crop_share) / self.scale
        heat = np.clip(heat, 0, 1)
        opacity = STRONGEST * heat[..., None]
        mixed = (1 - opacity) * picture + opacity * 255 * COLOURS(heat)[..., :3]
        return np.rint(mixed).astype(np.uint8)


def explain_windows(predictor: Predictor, clips: torch.Tensor, frames: np.ndarray, labels: Sequence[int]) -> HeatTrack:
    """Relevance of windows for the classes `labels` (n,).

    Args:
        clips: (n, crops, C, T, H, W). frames: (n, T) numbers of their frames.

    Returns:
        a track whose times are those of all tubelets, window after window: `join_windows` puts them in order.
    """
    windows, crops = clips.shape[:2]
    classes = torch.as_tensor(labels).repeat_interleave(crops)
    parts = zip(clips.flatten(0, 1).split(CLIPS_PER_BACKWARD), classes.split(CLIPS_PER_BACKWARD), strict=True)
    relevance = torch.cat([
        token_relevance(predictor.model, part.to(predictor.device), asked.to(predictor.device)).float().cpu()
        for part, asked in parts
    ])  # fmt: skip
    maps = relevance.unflatten(0, (windows, crops)).transpose(1, 2)
    tubelets = frames.reshape(windows * maps.shape[1], -1)
    return HeatTrack(tubelets.mean(1), tubelets[:, 0], maps.flatten(0, 1).numpy(), predictor.crop_share)


def join_windows(tracks: Sequence[HeatTrack]) -> HeatTrack:
    """One track from those of all windows; where windows overlap, tubelets of one time are averaged."""
    maps = np.concatenate([track.maps for track in tracks])
    times, first, places = np.unique(
        np.concatenate([track.times for track in tracks]), return_index=True, return_inverse=True
    )
    sums = np.zeros((len(times), *maps.shape[1:]), dtype=np.float32)
    np.add.at(sums, places, maps)
    means = sums / np.bincount(places).reshape(-1, 1, 1, 1)
    frames = np.concatenate([track.frames for track in tracks])[first]
    return HeatTrack(times, frames, means, tracks[0].crop_share)


def spread(maps: np.ndarray, height: int, width: int, crop_share: float = 1.0) -> np.ndarray:
    """Lay the maps of crops (crops, rows, columns) over a picture: (height, width) float32, 0 where no crop lies.

    The crops are squares along the longer side, from its start to its end, or a single one in the middle, as the test
    cuts them; where they overlap the relevance is their mean.
    """
    side = max(1, round(crop_share * min(height, width)))
    room = np.array([height - side, width - side])
    longer = int(width > height)
    heat, covered = np.zeros((2, height, width), dtype=np.float32)
    for place, patches in zip(_places(len(maps)), maps, strict=True):
        top, left = np.where(np.arange(2) == longer, place * room, room / 2).astype(int)
        patch = Image.fromarray(patches.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
        heat[top : top + side, left : left + side] += np.asarray(patch)
        covered[top : top + side, left : left + side] += 1
    return heat / np.maximum(covered, 1)


def _places(count: int) -> np.ndarray:
    """Where crops lie along the longer side, from 0 to 1."""
    return np.linspace(0, 1, count) if count > 1 else np.array([0.5])
