"""Measure whether heat maps follow the object: relevance inside the digit's box compared with the area of the box.

    python -m benchmarks.relevance_check OUTPUT_DIR   after scripts/demo.sh; reads OUTPUT_DIR/data and its boxes.json

For each clip, the share of the relevance inside the digit's boxes is divided by the share of the image that the boxes
cover. An uninformative map has a value of 1; the best value possible with whole patches is also reported. The results
are written to OUTPUT_DIR/relevance.json.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.files import write_json
from common.flag_parser import FlagParser
from common.flag_types import non_negative_int
from common.terminal import escape_output
from datasets.annotations import read_list
from explain.relevance import METHODS, token_relevance
from inference.defaults import QUICK
from inference.predictor import Predictor, load_predictor
from tools.make_moving_digits import BOXES

CLIPS_AT_ONCE = 16


def box_coverage(boxes: Tensor, size: int, tubelet: int, patches: int) -> Tensor:
    """Compute how much of each patch lies inside the boxes.

    Args:
        boxes: Left, top, right, bottom in pixels, (frames, 4).
        size: Side of the images in pixels.
        tubelet: Frames per token.
        patches: Number of patches along a side.

    Returns:
        (frames / tubelet, patches, patches), shares from 0 to 1.
    """
    edges = torch.arange(patches + 1, dtype=torch.float32) * (size / patches)
    left, top, right, bottom = boxes.float().unsqueeze(-1).unbind(1)
    columns = (torch.minimum(right, edges[1:]) - torch.maximum(left, edges[:-1])).clamp(min=0)
    rows = (torch.minimum(bottom, edges[1:]) - torch.maximum(top, edges[:-1])).clamp(min=0)
    shares = rows.unsqueeze(2) * columns.unsqueeze(1) / (size / patches) ** 2
    return shares.unflatten(0, (-1, tubelet)).mean(1)


def concentration(relevance: Tensor, coverage: Tensor) -> Tensor:
    """Divide the relevance inside the boxes by their area; both (batch, tubelets, rows, columns), result (batch,).

    The result is nan for a clip without evidence for the class, whose relevance is 0 everywhere.
    """
    inside = (relevance * coverage).sum((1, 2, 3)) / relevance.sum((1, 2, 3))
    return inside / coverage.mean((1, 2, 3))


def read_batches(predictor: Predictor, data: Path, split: str, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Read clips (batch, 3, T, H, W) from the middle of the videos of a split, and the coverage of their patches.

    Raises:
        FileNotFoundError: The data set has no boxes.
        ValueError: The size of the images differs from that of the model's input.
    """
    if not (data / BOXES).is_file():
        raise FileNotFoundError(f"{data / BOXES} is missing; python -m tools.make_moving_digits writes it")
    boxes = json.loads((data / BOXES).read_text())
    size = json.loads((data / "settings.json").read_text())["size"]
    embed = predictor.model.patch_embed
    if (size, size) != embed.img_size:
        raise ValueError(f"the images in {data} have sides of {size} pixels, the model's input {embed.img_size}")
    records, _ = read_list(data / "videos" / f"{split}.csv")
    records, plan, rng = records[: limit or None], predictor.plan, np.random.default_rng(0)
    for start in tqdm(range(0, len(records), CLIPS_AT_ONCE), unit="batch"):
        clips, coverage = [], []
        for record in records[start : start + CLIPS_AT_ONCE]:
            reader = predictor.open(str(data / record.path))
            indices = plan.sample(len(reader), mode=plan.mode, segment=0, num_segments=1, rng=rng)
            clips.append(plan.transform(reader.read(indices), rng))
            of_frames = torch.tensor(boxes[record.path])[torch.from_numpy(indices)]
            coverage.append(box_coverage(of_frames, size, embed.tubelet_size, embed.grid_size[0]))
        yield torch.cat(clips), torch.stack(coverage)


def measure(predictor: Predictor, data: Path, split: str = "test", limit: int = 0) -> dict:
    """Measure the concentration of the relevance for the predicted class, by method, over a split.

    Args:
        predictor: The model.
        data: Folder of the moving digits.
        split: "train", "val" or "test".
        limit: Number of clips, from the first; 0 for all.

    Returns:
        {"clips": n, "area": mean share, "best": {...}, METHOD: {...}}, the latter with mean, median and share_above_1
        over the clips with evidence for their class; "best" puts all relevance on the patch with the highest coverage.

    Raises:
        FileNotFoundError: As in `read_batches`.
        ValueError: As in `read_batches`.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in ("area", "best", *METHODS)}
    for clips, coverage in read_batches(predictor, data, split, limit):
        found["area"].append(coverage.mean((1, 2, 3)))
        found["best"].append(coverage.amax((1, 2, 3)) / found["area"][-1])
        for method in METHODS:
            relevance = token_relevance(predictor.model, clips.to(predictor.device), method=method)
            found[method].append(concentration(relevance.cpu(), coverage))
    ratios = {name: values[values.isfinite()] for name, values in ((n, torch.cat(v)) for n, v in found.items())}
    area = ratios.pop("area")
    return {"split": split, "clips": len(area), "area": area.mean().item()} | {
        name: {
            "mean": values.mean().item(),
            "median": values.median().item(),
            "share_above_1": (values > 1).float().mean().item(),
        }
        for name, values in ratios.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="output folder of scripts/demo.sh")
    parser.add_argument("--checkpoint", type=Path, help="default: checkpoint-best.pth in the output folder")
    parser.add_argument("--data", type=Path, help="moving digits; default: data in the output folder")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--limit", type=non_negative_int, default=0, help="number of clips, from the first; 0: all")
    options = parser.parse_args(arguments)
    try:
        predictor = load_predictor(options.checkpoint or options.output_dir / "checkpoint-best.pth", **QUICK)
        found = measure(predictor, options.data or options.output_dir / "data", options.split, options.limit)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    write_json(options.output_dir / "relevance.json", found)
    print(f"{found['clips']} clips, boxes cover {100 * found['area']:.1f} % of the image; relevance inside / area:")
    for name in (*METHODS, "best"):
        row = found[name]
        print(f"  {name:<17} mean {row['mean']:.2f}  median {row['median']:.2f}  above 1 {row['share_above_1']:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
