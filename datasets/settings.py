"""Settings of augmentation and loading. PyTorch is not imported, so flags are known at once."""

from dataclasses import dataclass

from common.flag_types import count_or_auto, fraction, non_negative, positive, positive_fraction, positive_int
from common.settings import flag, option
from datasets.readers import DECODERS

CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class AugmentationSettings:
    """Settings of the training augmentation."""

    num_sample: int = option(2, "augmented copies per decoded clip (repeated augmentation)", positive_int)
    aa: str | None = option(None, 'RandAugment settings, "none" to disable (default: the preset\'s)')
    color_jitter: float = option(0.4, "strength of colour jitter, for images without --aa", non_negative)
    train_interpolation: str = option("bicubic", "interpolation: bilinear, bicubic or random")
    scale: tuple[float, float] = option(
        CROP_AREA, "area of random crops, as a share of the image", positive_fraction, metavar=("MIN", "MAX")
    )
    crop: str = option(
        "area",
        "random crops of videos: area (by --scale and --ratio) or multi_scale (a few sizes at a few places, as in "
        "VideoMamba's masked pretraining)",
        choices=("area", "multi_scale"),
    )
    ratio: tuple[float, float] = option(
        CROP_ASPECT, "aspect ratio of random crops, relative to that of --input_size", positive, metavar=("MIN", "MAX")
    )
    hflip: float | None = option(None, "probability of a horizontal flip (default: the preset's)", fraction)
    reprob: float = option(0.25, "probability of random erasing", fraction)
    remode: str = option("pixel", "random erasing with pixel, rand or const values")
    recount: int = option(1, "maximum number of erased boxes", positive_int)
    gpu_transforms: bool = flag(
        False,
        "normalise and erase whole batches on the device, so that workers transfer 1 byte per value instead of 4; "
        "useful if a GPU waits for workers or transfers, slower on a CPU (default: off)",
    )
    seed: int = 0
    """Seed of sampling and augmentation; its flag belongs to the engine."""


@dataclass(frozen=True)
class LoadingSettings:
    """Settings of reading records and building batches."""

    batch_size: int = option(64, "videos per process and batch", positive_int)
    sampler: str = option(
        "uniform",
        "uniform: every training video once per epoch; balanced: every class equally often",
        choices=("uniform", "balanced"),
    )
    num_workers: int = option(
        10,
        "dataloader workers per process; auto: chosen for the machine, as are the computing threads (docs/engine.md)",
        count_or_auto,
        metavar="N|auto",
    )
    reader: str = option(DECODERS[0], "library that decodes videos", choices=DECODERS)
    read_timeout: float = option(
        60,
        "files that take longer, or crash the decoder, count as unreadable and do not stop the run; time "
        "during which the job is suspended or a disk does not respond is not counted; "
        "0: no limit, decode in the dataloader worker itself",
        non_negative,
        metavar="SECONDS",
    )
    pin_mem: bool = flag(True, "pin memory for faster transfer to a GPU (default)")
    strict_data: bool = flag(False, "stop with an error at an unreadable evaluation video instead of skipping it")
    dist_timeout: float = 600
    """Seconds that processes wait for each other; its flag belongs to the engine, as do the following."""
    steps: int = 0
    epochs: int = 1
    update_freq: int = 1

    def records_per_epoch(self, videos: int, world_size: int) -> int:
        """Return the number of records that all processes read in an epoch: the list, or what --steps needs.

        The optimizer steps are divided equally among the epochs; if they do not divide, each epoch has one more.
        """
        if not (self.steps and self.epochs):
            return videos
        return -(-self.steps // self.epochs) * self.update_freq * self.batch_size * world_size
