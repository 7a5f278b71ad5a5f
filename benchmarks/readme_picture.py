"""Draw the animated picture of README.md: clips of the demo's test with their predictions and heat maps.

    bash scripts/demo.sh && python -m benchmarks.readme_picture outputs/demo docs/images/heat.webp

The clips are the first ones of some motions in the test list, annotated by `run_inference.py --annotate`.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import run_inference
from common.files import atomic_write
from common.flag_parser import FlagParser
from common.terminal import escape_output
from datasets.annotations import read_list
from datasets.preparation.moving_digits import CLASSES
from datasets.readers import VideoFile
from inference.video_writer import every_frame

MOTIONS = ("left", "up", "clockwise", "approaching")
SIDE, GAP, MILLISECONDS, QUALITY = 200, 8, 160, 75


def side_by_side(videos: Sequence[Path]) -> list[Image.Image]:
    """Return the frames of annotated videos in a row, without the curves below them."""
    columns = [list(every_frame(VideoFile(str(video)))) for video in videos]
    pictures = []
    for frames in zip(*columns, strict=True):
        canvas = Image.new("RGB", (len(frames) * (SIDE + GAP) - GAP, SIDE), "white")
        for place, frame in enumerate(frames):
            width = frame.shape[1]  # the clips are square
            picture = Image.fromarray(np.ascontiguousarray(frame[:width]))
            canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (place * (SIDE + GAP), 0))
        pictures.append(canvas)
    return pictures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="--output_dir of the demo")
    parser.add_argument("target", type=Path, help=".webp file to write")
    options = parser.parse_args(arguments)
    lists = options.run / "data" / "videos"
    records, _ = read_list(lists / "test.csv", data_root=options.run / "data")
    chosen = [next(r.path for r in records if r.target == CLASSES.index(name)) for name in MOTIONS]
    with tempfile.TemporaryDirectory() as folder:
        words = [*chosen, "--checkpoint", str(options.run / "checkpoint-best.pth"), "--annotate", folder]
        status = run_inference.main([*words, "--device", "cpu"])
        if status == 0:
            first, *others = side_by_side([Path(folder) / Path(path).with_suffix(".mp4").name for path in chosen])
            with atomic_write(options.target) as file:
                first.save(
                    file,
                    "WEBP",
                    save_all=True,
                    append_images=others,
                    duration=MILLISECONDS,
                    loop=0,
                    quality=QUALITY,
                    method=6,
                )
            print(f"{options.target}: {options.target.stat().st_size / 2**10:.0f} KiB")
    return status


if __name__ == "__main__":
    sys.exit(main())
