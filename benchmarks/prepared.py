"""Time reading 16 sparse frames of an original video and of the forms that tools.prepare_videos writes.

    python -m benchmarks.prepared --output outputs/prepared [--height 272 --width 640 --frames 300]

The original is H.264 with x264's defaults (a key frame every 250 frames, B-frames): a pan over a textured scene with a
moving object and sensor noise. All forms are read in turns (A B A B) in one process, including opening, and with the
same frames: one random frame from each of 16 pieces of the video, as in sparse training. In addition to medians, the
bytes on disk and the PSNR to the resized original are reported. If a frame is wrong, nothing is reported and the exit
status is 1. Existing videos in --output are not written again. --cpu measures CPU time instead of wall-clock time, for
shared machines.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from common.flag_parser import FlagParser
from datasets.preparation.reencode import Preparation, VideoJob, prepare_video
from datasets.readers import FrameFolder, VideoFile
from datasets.sampling import sparse_indices

CLIP = 16
ROUNDS = 9
ORIGINAL = "original"
FRAME_RATE = 30
NOISE = 2.0  # standard deviation of the sensor's noise, in grey levels
LEAST_PSNR = 30.0  # dB; a wrong frame has about 20
FORMS = {
    "key every 4 (default)": Preparation(gop=4),
    "key every 8": Preparation(gop=8),
    "key every 16": Preparation(gop=16),
    "JPEG frames": Preparation(form="frames"),
}


def draw_scene(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Yield `count` frames (height, width, 3) uint8 of a pan over a texture, with an object that moves and turns."""
    rng = np.random.default_rng(0)
    texture = np.zeros((2 * height, 2 * width, 3), np.float32)
    for cells, strength in ((8, 0.4), (40, 0.3), (160, 0.3)):
        noise = rng.integers(0, 256, (cells, 2 * cells, 3), dtype=np.uint8)
        enlarged = Image.fromarray(noise).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
        texture += strength * np.asarray(enlarged, np.float32)
    side = height // 4
    thing = Image.fromarray(texture[:side, :side].astype(np.uint8)[:, ::-1])
    for i in range(count):
        y, x = (int(size * (0.5 + 0.45 * np.sin(i / period))) for size, period in ((height, 40), (width, 55)))
        frame = texture[y : y + height, x : x + width].copy()
        y, x = (int((size - side) * (0.5 + 0.45 * np.cos(i / period))) for size, period in ((height, 9), (width, 13)))
        frame[y : y + side, x : x + side] = np.asarray(thing.rotate(4 * i))
        yield (frame + rng.normal(0, NOISE, frame.shape)).clip(0, 255).astype(np.uint8)


def write_original(path: Path, count: int, height: int, width: int) -> None:
    """Write the scene with x264's defaults."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in draw_scene(count, height, width):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_forms(folder: Path, count: int, height: int, width: int) -> dict[str, Path]:
    """Write missing original and prepared forms; return their files or folders by name."""
    folder.mkdir(parents=True, exist_ok=True)
    original = folder / f"original_{height}x{width}x{count}.mp4"
    if not original.exists():
        write_original(original, count, height, width)
    paths = {ORIGINAL: original}
    for name, how in FORMS.items():
        suffix = "_frames" if how.form == "frames" else f"_g{how.gop}.mp4"
        paths[name] = folder / f"{original.stem}{suffix}"
        if not paths[name].exists():
            prepare_video(VideoJob(str(original), paths[name], how))
    return paths


def read(path: Path, indices: np.ndarray) -> np.ndarray:
    """Open a form and read frames from it."""
    if path.is_dir():
        return FrameFolder(str(path), len(list(path.iterdir()))).read(indices)
    return VideoFile(str(path)).read(indices)


def psnr(path: Path, original: Path, indices: np.ndarray) -> float:
    """Compute the PSNR of frames of a form to the resized original, in dB."""
    found = read(path, indices)
    size = found.shape[2], found.shape[1]
    expected = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in read(original, indices)]
    error = np.mean((found.astype(np.float64) - np.stack(expected)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def bytes_of(path: Path) -> int:
    """Return the size on disk of a file or of the files in a folder."""
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def measure(paths: dict[str, Path], draws: Sequence[np.ndarray], clock: Callable[[], float]) -> dict[str, float]:
    """Measure the median seconds of reading a clip of each form."""
    seconds = defaultdict(list)
    for indices in draws:
        for name, path in paths.items():
            began = clock()
            read(path, indices)
            seconds[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> int:
    """Run the command line; return the exit status."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the videos")
    parser.add_argument("--height", type=int, default=272)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--cpu", action="store_true", help="measure CPU time")
    args = parser.parse_args()
    paths = write_forms(args.output, args.frames, args.height, args.width)
    rng = np.random.default_rng(0)
    draws = [sparse_indices(args.frames, CLIP, mode="train", rng=rng) for _ in range(ROUNDS)]
    likeness = {name: psnr(path, paths[ORIGINAL], draws[0]) for name, path in paths.items()}
    for name, value in likeness.items():
        if value < LEAST_PSNR:
            print(f"{name} differs from the original: {value:.1f} dB", file=sys.stderr)
            return 1
    seconds = measure(paths, draws, time.process_time if args.cpu else time.perf_counter)
    print(f"{args.frames} frames of {args.height} x {args.width}, {CLIP} sparse ones read; medians of {ROUNDS}")
    print(f"{'':22} {'ms':>7} {'faster':>7} {'KiB':>7} {'size':>6} {'PSNR':>5}")
    for name, value in seconds.items():
        size = bytes_of(paths[name])
        print(
            f"{name:22} {1e3 * value:7.1f} {seconds[ORIGINAL] / value:6.1f}x {size / 1024:7.0f} "
            f"{size / bytes_of(paths[ORIGINAL]):5.1f}x {likeness[name]:5.1f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
