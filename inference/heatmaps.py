"""Heat maps: which parts of which frames contribute to the prediction.

`explain.relevance` computes what every patch of a clip adds to the logit of a class. This module combines the crops
and windows of a video and overlays the result on the frames. All frames of a video share one scale, which has a lower
bound: contributions that are negligible are invisible, even if the video has no larger ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from explain.relevance import token_contributions
from inference.predictor import Predictor

COLOURS = matplotlib.colormaps["inferno"]
STRONGEST = 0.75  # opacity of the strongest colour
EVIDENCE = 1.0
"""Lower bound of the scale: this logit, evenly distributed over the patches of a clip, has the full colour."""
CLIPS_PER_BACKWARD = 2  # the gradient needs the activations of every layer
FRAME = 0.5  # opacity of the border of the crops
UNIT = "added to the logit"  # per patch


@dataclass(frozen=True)
class HeatTrack:
    """Relevance over the time of a video.

    Attributes:
        times: (m,) mean frame number of each tubelet, ascending.
        frames: (m,) first frame of each tubelet.
        maps: (m, crops, rows, columns) float32, non-negative: contributions to the logit of the window's class.
        tubelets: Number of tubelets per clip.
        crop_share: Side of a crop divided by that of the largest crop of its shape in the picture.
    """

    times: np.ndarray
    frames: np.ndarray
    maps: np.ndarray
    tubelets: int = 1
    crop_share: float = 1.0

    @cached_property
    def scale(self) -> float:
        """Contribution with the full colour: the 99 % quantile, but at least `EVIDENCE` per patch of a clip."""
        patches = self.tubelets * self.maps[0, 0].size
        return float(max(np.quantile(self.maps, 0.99), EVIDENCE / patches))

    def at(self, frame: float) -> np.ndarray:
        """Interpolate the maps (crops, rows, columns) at a frame, linearly between the times."""
        place = np.interp(frame, self.times, np.arange(len(self.times)))
        before = int(place)
        after = min(before + 1, len(self.times) - 1)
        return (1 - (place - before)) * self.maps[before] + (place - before) * self.maps[after]

    def overlay(self, picture: np.ndarray, frame: float, certainty: float = 1.0) -> np.ndarray:
        """Overlay the heat map and the border of the crops on a frame.

        Args:
            picture: The frame, uint8 (H, W, 3), in any size.
            frame: Frame number.
            certainty: Factor of the opacity, 0 to 1, see `inference.predictor.certainty`.

        Returns:
            uint8 (H, W, 3). The heat fades out towards the border of the crops.
        """
        maps, size = self.at(frame), picture.shape[:2]
        fade, border = _edges(maps.shape, *size, self.crop_share)
        heat = np.clip(spread(maps, *size, self.crop_share) / self.scale, 0, 1)
        opacity = (STRONGEST * certainty * fade * heat)[..., None]
        mixed = (1 - opacity) * picture + opacity * 255 * COLOURS(heat)[..., :3]
        mixed[border] += FRAME * (255 - mixed[border])
        return np.rint(mixed).astype(np.uint8)


def colour_bar(width: int, height: int) -> np.ndarray:
    """Draw the colour scale from left to right: uint8 (height, width, 3)."""
    ramp = COLOURS(np.linspace(0, 1, width))[None, :, :3]
    return np.rint(255 * np.broadcast_to(ramp, (height, width, 3))).astype(np.uint8)


def draw_heat_scale(
    canvas: Image.Image, corner: tuple[int, int], scale: float, font: ImageFont.FreeTypeFont, ink: str = "black"
) -> None:
    """Draw the colour bar with its limits and unit; `corner` is its top left corner."""
    pen, (x, y) = ImageDraw.Draw(canvas), corner
    pen.text((x, y), "0", font=font, fill=ink)
    x += round(font.getlength("0 "))
    bar = colour_bar(round(8 * font.size), round(font.size))
    canvas.paste(Image.fromarray(bar), (x, y + 1))
    pen.text((x + bar.shape[1] + font.size // 2, y), f"{scale:.2g} {UNIT}", font=font, fill=ink)


def explain_windows(predictor: Predictor, clips: torch.Tensor, frames: np.ndarray, labels: Sequence[int]) -> HeatTrack:
    """Compute what the patches of windows add to the logits of classes.

    Args:
        predictor: The model.
        clips: (n, crops, C, T, H, W).
        frames: (n, T) frame numbers.
        labels: (n,) the class to explain in each window.

    Returns:
        A track with the tubelets of one window after another; `join_windows` sorts them by time.
    """
    windows, crops = clips.shape[:2]
    classes = torch.as_tensor(labels).repeat_interleave(crops)
    parts = zip(clips.flatten(0, 1).split(CLIPS_PER_BACKWARD), classes.split(CLIPS_PER_BACKWARD), strict=True)
    contributions = torch.cat([
        token_contributions(predictor.model, part.to(predictor.device), asked.to(predictor.device)).float().cpu()
        for part, asked in parts
    ])  # fmt: skip
    maps = contributions.clamp(min=0).unflatten(0, (windows, crops)).transpose(1, 2)
    tubelets = maps.shape[1]
    times = frames.reshape(windows * tubelets, -1)
    return HeatTrack(times.mean(1), times[:, 0], maps.flatten(0, 1).numpy(), tubelets, predictor.crop_share)


def join_windows(tracks: Sequence[HeatTrack]) -> HeatTrack:
    """Join the tracks of all windows; tubelets of overlapping windows with equal times are averaged."""
    maps = np.concatenate([track.maps for track in tracks])
    times, first, places = np.unique(
        np.concatenate([track.times for track in tracks]), return_index=True, return_inverse=True
    )
    sums = np.zeros((len(times), *maps.shape[1:]), dtype=np.float32)
    np.add.at(sums, places, maps)
    means = sums / np.bincount(places).reshape(-1, 1, 1, 1)
    frames = np.concatenate([track.frames for track in tracks])[first]
    return HeatTrack(times, frames, means, tracks[0].tubelets, tracks[0].crop_share)


def spread(maps: np.ndarray, height: int, width: int, crop_share: float = 1.0) -> np.ndarray:
    """Place the maps of crops (crops, rows, columns) on a picture: (height, width) float32, 0 outside all crops.

    The crops are those of the test, of the shape of a clip: evenly spaced along the side where the picture has more,
    or a single one in the middle.
    Overlapping crops are averaged.
    """
    heat, covered = np.zeros((2, height, width), dtype=np.float32)
    for (rows, columns), patches in zip(_crops(maps.shape, height, width, crop_share), maps, strict=True):
        size = (columns.stop - columns.start, rows.stop - rows.start)
        heat[rows, columns] += Image.fromarray(patches.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        covered[rows, columns] += 1
    return heat / np.maximum(covered, 1)


@lru_cache(maxsize=8)  # identical for all frames of a video
def _edges(shape: tuple[int, ...], height: int, width: int, crop_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute the soft edge and the border of the area covered by the crops; edges of the picture do not count.

    Returns:
        (height, width) float32: 0 outside the area and at its border, rising to 1 within half a patch.
        (height, width) bool: the border.
    """
    seen = np.zeros((height, width), dtype=np.uint8)
    for rows, columns in _crops(shape, height, width, crop_share):
        seen[rows, columns] = 255
    mask, patch = Image.fromarray(seen), crop_share * min(height / shape[1], width / shape[2])
    # Filters replicate the outermost pixels, so nothing fades at the edges of the picture.
    blurred = np.asarray(mask.filter(ImageFilter.BoxBlur(patch / 2)), dtype=np.float32) / 255
    thickness = 1 + 2 * max(1, min(height, width) // 240)
    inner = np.asarray(mask.filter(ImageFilter.MinFilter(thickness)))
    return np.clip(2 * blurred - 1, 0, 1), seen != inner


def _crops(shape: tuple[int, ...], height: int, width: int, crop_share: float) -> Iterator[tuple[slice, slice]]:
    """Yield the pixels of each crop, down and across, for maps of the shape (crops, rows, columns)."""
    count, rows, columns = shape
    fitting = crop_share * min(height * columns, width * rows)
    high, wide = max(1, round(fitting / columns)), max(1, round(fitting / rows))
    room = np.array([height - high, width - wide])
    longer = int(room[1] > room[0])
    for place in np.linspace(0, 1, count) if count > 1 else [0.5]:
        top, left = np.where(np.arange(2) == longer, place * room, room / 2).astype(int)
        yield slice(top, top + high), slice(left, left + wide)
