"""Build datasets and loaders for action detection from settings."""

import logging
from functools import partial

from datasets.build import build_loader
from datasets.clip_dataset import ClipPlan
from datasets.collate import Collate
from datasets.detection.arguments import DetectionSettings
from datasets.detection.keyframe_dataset import CollateByShape, KeyframeDataset
from datasets.detection.lists import Keyframes, read_keyframes
from datasets.detection.transforms import RandomView, WholePicture
from datasets.loader import ClipLoader
from datasets.readers import Guard
from datasets.sampling import Mode, keyframe_indices

logger = logging.getLogger(__name__)


def build_detection_dataset(mode: Mode, settings: DetectionSettings) -> KeyframeDataset:
    """Build the dataset of a mode.

    Args:
        mode: "train"; "validation", which uses one of every `val_every_seconds` seconds; or "test".
        settings: Files, frames and views.

    Raises:
        FileNotFoundError: A file is missing, or none of the videos exists.
        AnnotationError: A file has faulty lines, or leaves nothing to train or evaluate with.
    """
    keyframes = read_keyframes(mode, settings)
    dataset = dataset_of(keyframes, mode, settings)
    logger.info(
        "%s: %d seconds with %d boxes of %s, %d classes, annotated in %s",
        mode,
        len(dataset),
        sum(len(record.boxes) for record in dataset.records),
        keyframes.person_file or "the ground truth",
        dataset.num_classes,
        dataset.list_file,
    )
    return dataset


def dataset_of(keyframes: Keyframes, mode: Mode, settings: DetectionSettings) -> KeyframeDataset:
    """Build a dataset of the given records; other arguments as in `build_detection_dataset`."""
    if mode == "train":
        transform = RandomView(settings.input_size, settings.train_short_side, settings.hflip, settings.box_jitter)
    else:
        transform = WholePicture(settings.short_side_size, settings.patch_size, settings.box_jitter)
    plan = ClipPlan(
        mode=mode,
        sample=partial(keyframe_indices, clip_len=settings.num_frames, sampling_rate=settings.sampling_rate),
        transform=transform,
        clip_shape=(3, settings.num_frames, settings.input_size, settings.input_size),
        seed=settings.seed,
        gpu_transforms=settings.gpu_transforms,
    )
    return KeyframeDataset(
        keyframes,
        plan,
        filename_tmpl=settings.filename_tmpl,
        fps=settings.fps,
        start_second=settings.start_second,
        guard=Guard(settings.read_timeout) if settings.read_timeout else None,
    )


def build_detection_loader(
    dataset: KeyframeDataset, mode: Mode, settings: DetectionSettings, *, rank: int = 0, world_size: int = 1
) -> ClipLoader:
    """Build the loader of a dataset for one process; arguments and errors as in `build_loader`.

    Evaluation reads one view of each second, in batches of clips of equal shape.
    """
    train = mode == "train"
    return build_loader(
        dataset,
        "train" if train else "validation",
        settings,
        rank=rank,
        world_size=world_size,
        collate=None if train else CollateByShape(Collate(dataset.plan.clip_shape)),
    )
