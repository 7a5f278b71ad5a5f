"""Time reading and augmenting videos on one core, with our order of operations and the published one.

    python -m benchmarks.data [augment samples views readers handover] [--json out.json]
    python -m benchmarks.data memory [--reads 20000]

- augment: one clip of 16 x 256 x 340: RandAugment, crop to 224, flip, normalisation, erasing. The published order
  augments each frame by PIL at full size and crops at the end.
- samples: training samples of a 10 s video of 272 x 640, 16 sparse frames, compared with only decoding the frames.
- views: all 4 x 3 views of a test video. The published order opens and decodes the video for each view.
- readers: opening a video and reading 16 frames with each library that is installed, spread over the video and close
  together, and all 48 frames of a short clip.
- handover: from 16 frames in memory to a clip in a batch, as in a dataloader worker, with and without
  --gpu_transforms; and what the flag leaves to the device, on this CPU.
- memory: growth of the process and of the guard's helper when the same video is read many times.

All run on one core in turns (A B A B); medians are reported. --cpu measures CPU time instead of wall-clock time, for
shared machines. If the images differ, nothing is reported and the exit status is 1.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.timing import by_clock, interleaved_medians
from common.flag_parser import FlagParser
from common.memory import keep_freed_memory
from datasets.arguments import DataSettings
from datasets.build import build_dataset
from datasets.clip_dataset import ClipDataset, SampleKey
from datasets.collate import Collate, clips_on
from datasets.erasing import RandomErasing, erase
from datasets.presets import VIDEO_AA
from datasets.randaugment import RandAugment, parse_randaugment
from datasets.readers import VideoFile
from datasets.readers.decord_decoder import DecordDecoder
from datasets.readers.pyav_decoder import PyavDecoder
from datasets.sampling import Mode
from datasets.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AugmentationSettings,
    Normalize,
    RandomResizedCrop,
    ResizeToCover,
    SlidingCrops,
    video_train_transform,
)
from inference.sources import FramesInMemory

ROUNDS = 3
CLIPS = 8  # augmented per timed call, with different random numbers
SHORT = 48  # frames of the short clip
PARTS = ("augment", "samples", "views", "readers", "handover")
DIFFERENCE = 0.05  # mean, of normalised values; the published order does not round between crop and normalisation


def smooth_frames(count: int, height: int, width: int) -> np.ndarray:
    """Create smooth moving images with some noise, uint8 (count, height, width, 3)."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, size=(9, 24, 3), dtype=np.uint8))
    wide = np.asarray(small.resize((width + 4 * count, height), Image.Resampling.BICUBIC))
    noise = rng.integers(0, 8, size=wide.shape, dtype=np.uint8)
    wide = np.minimum(wide, 247) + noise
    return np.stack([wide[:, 4 * i : 4 * i + width] for i in range(count)])


def write_video(path: Path, count: int = 250, height: int = 272, width: int = 640) -> Path:
    """Write a 10 s H.264 video with the encoder's default groups of 250 pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in smooth_frames(count, height, width):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


PIL_OPERATIONS = {
    "AutoContrast": lambda picture, _: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, _: ImageOps.equalize(picture),
    "Invert": lambda picture, _: ImageOps.invert(picture),
    "PosterizeIncreasing": ImageOps.posterize,
    "SolarizeIncreasing": ImageOps.solarize,
    "SolarizeAdd": lambda picture, added: picture.point(
        [min(255, i + added) if i < 128 else i for i in range(256)] * 3
    ),
    "ColorIncreasing": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "ContrastIncreasing": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "BrightnessIncreasing": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "SharpnessIncreasing": lambda picture, factor: ImageEnhance.Sharpness(picture).enhance(factor),
}


def published_order(frames: np.ndarray, rng: np.random.Generator, size: int = 224) -> torch.Tensor:
    """Augment as the published pipeline does, with our random numbers: frames (T, H, W, 3) -> (C, T, size, size)."""
    pictures = [Image.fromarray(frame) for frame in frames]
    height, width = frames.shape[1:3]
    for operation in RandAugment(parse_randaugment(VIDEO_AA)).draw(height, width, rng):
        if operation.affine is None:
            argument = operation.function.args[0]
            pictures = [PIL_OPERATIONS[operation.name](picture, argument) for picture in pictures]
        else:
            affine = operation.affine.matrix, Image.Resampling.BICUBIC
            pictures = [
                picture.transform(picture.size, Image.Transform.AFFINE, *affine, fillcolor=operation.affine.fill)
                for picture in pictures
            ]
    clip = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).float() / 255
    clip = ((clip - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(3, 0, 1, 2)
    top, left, h, w = RandomResizedCrop(size).draw_box(height, width, rng)
    clip = F.interpolate(
        clip[:, :, top : top + h, left : left + w], (size, size), mode="bilinear", align_corners=False
    )
    if rng.random() < 0.5:
        clip = clip.flip(3)
    return erase(clip, RandomErasing(0.25).draw(size, size, rng))


def augment(clock: Callable[[], float]) -> dict[str, float]:
    """Time the augmentation of one clip, in milliseconds."""
    frames = smooth_frames(16, 256, 340)
    ours = video_train_transform(224, AugmentationSettings(aa=VIDEO_AA, hflip=0.5))
    for seed in range(CLIPS):
        found = ours(frames, np.random.default_rng(seed))[0]
        expected = published_order(frames, np.random.default_rng(seed))
        refuse_if(float((found - expected).abs().mean()) > DIFFERENCE, f"the augmented clips of seed {seed} differ")

    def repeated(transform):
        return lambda: [transform(frames, np.random.default_rng(seed)) for seed in range(CLIPS)]

    orders = {"published": repeated(published_order), "ours": repeated(ours)}
    seconds = interleaved_medians(orders, ROUNDS, by_clock(clock))
    times = {name: 1000 * value / CLIPS for name, value in seconds.items()}
    return {"published_ms": times["published"], "ours_ms": times["ours"], "ratio": times["published"] / times["ours"]}


def dataset_of(folder: Path, mode: Mode, **settings) -> ClipDataset:
    """Build a dataset of the one video in `folder`; `settings` are fields of `DataSettings`."""
    for name in ("train", "test"):
        (folder / f"{name}.csv").write_text("v.mp4 0\n")
    where = {"data_path": str(folder), "data_root": str(folder)}
    return build_dataset(mode, DataSettings(**where, nb_classes=2, num_frames=16, **settings))


def samples(folder: Path, clock: Callable[[], float]) -> dict[str, float]:
    """Time a training sample and the decoding of its frames, in milliseconds."""
    path = str(write_video(folder / "v.mp4"))
    guarded = dataset_of(folder, "train", sampling="sparse", num_sample=1)
    alone = dataset_of(folder, "train", sampling="sparse", num_sample=1, read_timeout=0)
    as_bytes = dataset_of(folder, "train", sampling="sparse", num_sample=1, gpu_transforms=True)
    refuse_if(not torch.equal(guarded[0].clips, alone[0].clips), "the guard changes the samples")
    as_bytes[SampleKey(0, 0)]

    def with_helpers() -> float:
        helpers = [dataset.guard.helper for dataset in (guarded, as_bytes)]
        return clock() + (sum(map(cpu_seconds, helpers)) if clock is time.process_time else 0.0)

    draws = [np.random.default_rng(seed) for seed in range(CLIPS)]
    wanted = [guarded.plan.sample(len(VideoFile(path)), mode="train", rng=rng) for rng in draws]
    candidates = {
        "decoding": lambda: [VideoFile(path).read(indices) for indices in wanted],
        "sample": lambda: [guarded[SampleKey(0, epoch)] for epoch in range(CLIPS)],
        "unguarded": lambda: [alone[SampleKey(0, epoch)] for epoch in range(CLIPS)],
        "gpu_transforms": lambda: [as_bytes[SampleKey(0, epoch)] for epoch in range(CLIPS)],
    }
    seconds = interleaved_medians(candidates, ROUNDS, by_clock(with_helpers))
    times = {name: 1000 * value / CLIPS for name, value in seconds.items()}
    rates = {f"{name}_share": times["decoding"] / times[name] for name in candidates if name != "decoding"}
    return {f"{name}_ms": value for name, value in times.items()} | rates


def views(folder: Path, clock: Callable[[], float]) -> dict[str, float]:
    """Time the 4 x 3 views of a test video, in milliseconds, and count how often it is decoded."""
    path = str(write_video(folder / "v.mp4"))
    dataset = dataset_of(folder, "test", sampling="sparse", read_timeout=0)
    steps = ResizeToCover(224), SlidingCrops(224, 3), Normalize()

    def view_by_view():
        clips = []
        for segment in range(4):
            for crop in range(3):
                reader = VideoFile(path)
                indices = dataset.plan.sample(len(reader), mode="test", segment=segment, num_segments=4)
                clip = torch.from_numpy(reader.read(indices)).permute(0, 3, 1, 2)
                clips.append(steps[2](steps[1](steps[0](clip, None), None)[crop], None))
        return torch.stack(clips)

    calls = []
    read = VideoFile.read
    VideoFile.read = lambda self, indices: calls.append(len(indices)) or read(self, indices)
    found = dataset[0].clips
    VideoFile.read = read
    refuse_if(not torch.equal(found, view_by_view()), "the views differ")
    candidates = {"published": view_by_view, "ours": lambda: dataset[0]}
    seconds = interleaved_medians(candidates, ROUNDS, by_clock(clock))
    times = {f"{name}_ms": 1000 * value for name, value in seconds.items()}
    return times | {"ratio": seconds["published"] / seconds["ours"], "decode_calls": len(calls)}


def readers(folder: Path, clock: Callable[[], float]) -> dict[str, float]:
    """Time opening a file and decoding frames with each installed library, in milliseconds."""
    long, short = str(write_video(folder / "v.mp4")), str(write_video(folder / "short.mp4", count=SHORT))
    reads = {
        "sparse": (long, np.linspace(5, 245, 16).astype(int)),
        "dense": (long, np.arange(100, 164, 4)),
        "whole": (short, np.arange(SHORT)),
    }
    decoders = {"decord": DecordDecoder, "pyav": PyavDecoder}
    with suppress(ImportError):
        decoders["torchcodec"] = importlib.import_module("datasets.readers.torchcodec_decoder").TorchcodecDecoder
    for path, indices in reads.values():
        first, *others = (make(path).decode(indices) for make in decoders.values())
        refuse_if(not all(np.array_equal(first, other) for other in others), "they differ")
    candidates = {
        f"{by}_{name}_ms": lambda make=make, path=path, indices=indices: make(path).decode(indices)
        for name, (path, indices) in reads.items()
        for by, make in decoders.items()
    }
    return {name: 1000 * value for name, value in interleaved_medians(candidates, ROUNDS, by_clock(clock)).items()}


def handover(folder: Path, clock: Callable[[], float]) -> dict[str, float]:
    """Time a worker's part of a clip with and without --gpu_transforms; milliseconds and MiB a clip."""
    frames = smooth_frames(16, 256, 340)
    (folder / "v.mp4").touch()
    datasets = {
        name: dataset_of(folder, "train", num_sample=1, gpu_transforms=name == "bytes")
        for name in ("finished", "bytes")
    }
    for dataset in datasets.values():
        dataset.open_record = lambda record: FramesInMemory(frames)
    collate = Collate(datasets["bytes"].plan.clip_shape)

    def batch_of(name: str) -> dict:
        return collate([datasets[name][SampleKey(0, epoch)] for epoch in range(CLIPS)])

    finished, left = batch_of("finished")["clips"], batch_of("bytes")
    refuse_if(not torch.equal(finished, clips_on("cpu", left)), "--gpu_transforms changes the clips")
    candidates = {name: lambda name=name: batch_of(name) for name in datasets}
    candidates["left_to_device"] = lambda: clips_on("cpu", left)
    seconds = interleaved_medians(candidates, ROUNDS, by_clock(clock))
    sizes = {"finished_mib": finished.nbytes / 2**20 / CLIPS, "bytes_mib": left["clips"].nbytes / 2**20 / CLIPS}
    return {f"{name}_ms": 1000 * value / CLIPS for name, value in seconds.items()} | sizes


def memory(folder: Path, reads: int) -> dict[str, float]:
    """Read a small video repeatedly; return MiB of resident memory after a tenth of the reads and at the end."""
    write_video(folder / "v.mp4", 40, 64, 96)
    dataset = dataset_of(folder, "train", sampling="sparse", input_size=32)
    found = {}
    for epoch in range(reads):
        dataset[SampleKey(0, epoch)]
        if epoch + 1 in (reads // 10, reads):
            for name, pid in (("process", os.getpid()), ("helper", dataset.guard.helper)):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                found[f"{name}_after_{epoch + 1}_mib"] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of another process so far, from its clock (Linux), which counts nanoseconds."""
    return time.clock_gettime(~pid << 3 | 2)


def refuse_if(wrong: bool, why: str) -> None:
    """Exit if a result is wrong, because its time would be meaningless."""
    if wrong:
        raise SystemExit(f"nothing is reported: {why}")


def main() -> None:
    """Run the requested parts and print or write their figures."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="see above (default: all but memory)")
    parser.add_argument("--reads", type=int, default=20000, help="reads of the part memory")
    parser.add_argument("--cpu", action="store_true", help="measure CPU time")
    parser.add_argument("--json", default="", metavar="FILE", help="also write the figures to FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a dataloader worker
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    clock = time.process_time if args.cpu else time.perf_counter
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = {
            "augment": lambda: augment(clock),
            "samples": lambda: samples(folder, clock),
            "views": lambda: views(folder, clock),
            "readers": lambda: readers(folder, clock),
            "handover": lambda: handover(folder, clock),
            "memory": lambda: memory(folder, args.reads),
        }
        unknown = set(args.parts) - set(work)
        if unknown:
            parser.error(f"{', '.join(unknown)}: choose from {', '.join(work)}")
        for part in args.parts or PARTS:
            figures[part] = work[part]()
            print(f"{part}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures[part].items()), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
