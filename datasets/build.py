"""Build datasets and loaders from settings."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.frame_size import as_pair
from datasets.annotations import Kind, Record
from datasets.arguments import DataSettings
from datasets.balanced_sampler import BalancedSampler
from datasets.class_labels import describe_empty_classes
from datasets.clip_dataset import ClipDataset, ClipPlan, Sample
from datasets.collate import Collate
from datasets.frame_names import find_first_frame
from datasets.image_list import ImageListDataset
from datasets.label_names import read_label_names
from datasets.lists import LISTS, check_some_files, find_list_of, number_of_classes, read_records
from datasets.loader import ClipLoader, EvalSampler, TrainSampler
from datasets.presets import Preset, get_preset
from datasets.rawframe_cls import RawFrameClsDataset
from datasets.readers import Guard, require_reader
from datasets.records import targets_of
from datasets.sampling import SAMPLERS, Mode, uniform_indices
from datasets.settings import LoadingSettings
from datasets.transforms import (
    Compose,
    image_eval_transform,
    image_train_transform,
    video_test_transform,
    video_train_transform,
    video_validation_transform,
)
from datasets.video_cls import VideoClsDataset
from datasets.windows import cut_records
from datasets.worker import start_worker

logger = logging.getLogger(__name__)


def build_dataset(mode: Mode, settings: DataSettings) -> ClipDataset:
    """Build the dataset of a mode.

    Args:
        mode: "train", "validation" or "test".
        settings: Lists, frames, views and augmentation.

    Raises:
        FileNotFoundError: A list is missing, or none of the files in a list exists.
        ValueError: A list has invalid lines or implausible labels, --label_names does not match it, frames are named
            differently than the flags say, the library of --reader is missing, or flags contradict each other.
    """
    if mode not in LISTS:
        raise ValueError(f'mode must be one of {", ".join(LISTS)}, not "{mode}"')
    list_file = find_list_of(mode, settings)
    num_classes = number_of_classes(settings)
    if settings.label_names:
        read_label_names(settings.label_names, num_classes)
    records, kind = read_records(list_file, settings, num_classes=num_classes)
    if mode != "train" and settings.task == "multilabel" and not any(targets_of(records)):
        raise ValueError(f"{list_file}: no clip has a label, so there is no average precision; use another list")
    outputs = "targets" if settings.task == "regression" else "classes"
    if mode == "train" and outputs == "classes" and (empty := describe_empty_classes(records, num_classes)):
        logger.warning("%s: %s", list_file, empty)
    dataset = dataset_of(records, kind, mode, settings, num_classes=num_classes, list_file=list_file)
    logger.info("%s: %d clips of kind %s, %d %s, from %s", mode, len(dataset), kind, num_classes, outputs, list_file)
    return dataset


def dataset_of(
    records: Sequence[Record], kind: Kind, mode: Mode, settings: DataSettings, *, num_classes: int, list_file: Path
) -> ClipDataset:
    """Build the dataset of the records of a list; arguments and errors as in `build_dataset` and `read_list`."""
    check_some_files(records, list_file)
    if kind == "image" and settings.num_frames != 1:
        raise ValueError(f"{list_file} is a list of images, which are clips of one frame; add --num_frames 1")
    films = None
    if window := window_length(settings):
        if window < settings.window_stride:
            logger.warning("%s: windows of %g s begin every %g s, and what lies between them is left out; see "
                           "--window_stride", mode, window, settings.window_stride)  # fmt: skip
        films, records = records, cut_records(records, window, settings.window_stride)
        logger.info("%s: %d windows of %g s in %d videos", mode, len(records), window, len(films))
    plan = build_plan(mode, kind, settings)
    require_reader(settings.reader)
    guard = Guard(settings.read_timeout, reader=settings.reader) if settings.read_timeout else None
    shared: dict[str, Any] = {"num_classes": num_classes, "list_file": str(list_file), "guard": guard}
    shared["films"] = films
    typed_records: Any = records
    if kind == "video":
        return VideoClsDataset(typed_records, plan, reader=settings.reader, **shared)
    folder_class = ImageListDataset if kind == "image" else RawFrameClsDataset
    first_frame = settings.first_frame
    if first_frame is None:
        first_frame = find_first_frame(typed_records, settings.filename_tmpl, list_file)
    return folder_class(typed_records, plan, filename_tmpl=settings.filename_tmpl, first_frame=first_frame, **shared)


def build_loader(
    dataset: ClipDataset,
    mode: Mode,
    settings: LoadingSettings,
    *,
    rank: int = 0,
    world_size: int = 1,
    collate: Callable[[list[Sample]], Any] | None = None,
) -> ClipLoader:
    """Build the loader of a dataset for one process.

    In training, a batch has `batch_size` videos, the order changes every epoch (call `loader.sampler.set_epoch`), and
    an incomplete last batch is dropped. In evaluation, each record is read by exactly one process; validation batches
    are 1.5 times as large, and test batches have about `batch_size` views.

    Args:
        dataset: Built by `build_dataset`.
        mode: "train", "validation" or "test".
        settings: Batch size, sampler, workers and time limits.
        rank: Rank of this process.
        world_size: Number of processes.
        collate: Makes a batch, or a list of batches, of samples; `Collate` by default.

    Raises:
        ValueError: The training list is too short for a single batch, or --read_timeout is too long for
            --dist_timeout.
    """
    if world_size > 1 and dataset.guard is not None:
        _bound_time_lost(dataset.guard, settings)
    train = mode == "train"
    views = dataset.plan.segments * dataset.plan.crops if mode == "test" else 0
    if train:
        records = settings.records_per_epoch(len(dataset), world_size)
        shards = dict(rank=rank, world_size=world_size, seed=dataset.plan.seed, records=records)
        if settings.sampler == "balanced":
            sampler = BalancedSampler(targets_of(dataset.records), **shards)
        else:
            sampler = TrainSampler(len(dataset), **shards)
        batch_size = settings.batch_size
        if len(sampler) == 0:
            raise ValueError(
                f"{dataset.list_file} has {len(dataset)} videos, fewer than the {world_size} processes of this run; "
                f"each process needs at least one; start at most {len(dataset)} processes"
            )
        if len(sampler) < batch_size:
            raise ValueError(
                f"{dataset.list_file} has {len(dataset)} videos, too few for a batch of --batch_size {batch_size} "
                f"on {world_size} process(es); set --batch_size to at most {len(sampler)}"
            )
    else:
        sampler = EvalSampler(len(dataset), rank=rank, world_size=world_size)
        batch_size = max(1, settings.batch_size // views if views else int(1.5 * settings.batch_size))
    return ClipLoader(
        dataset,
        replaced=train,
        strict=settings.strict_data and not train,
        sampler=sampler,
        batch_size=batch_size,
        drop_last=train,
        num_workers=settings.num_workers,
        persistent_workers=settings.num_workers > 0,
        pin_memory=settings.pin_mem and torch.cuda.is_available(),
        collate_fn=collate or Collate(dataset.plan.clip_shape, views=views),
        worker_init_fn=start_worker,
        # Used for seeding workers only. Drawing from the global generator, as DataLoader does once per process, would
        # change the random numbers of a resumed run.
        generator=torch.Generator(),
    )


def _bound_time_lost(guard: Guard, settings: LoadingSettings) -> None:
    """Limit the time lost to slow files, so that the other processes do not time out waiting for this one."""
    timeout = settings.dist_timeout
    if 4 * guard.time_limit > timeout:
        raise ValueError(
            f"--read_timeout {guard.time_limit:g} is too long: processes wait only --dist_timeout {timeout:g} s "
            f"for each other; set it to {timeout / 4:g} or less, or --dist_timeout to {4 * guard.time_limit:g} or more"
        )
    guard.budget = timeout / 2


def build_plan(mode: Mode, kind: Kind, settings: DataSettings) -> ClipPlan:
    """Define how records of a kind are turned into clips in a mode."""
    preset = get_preset(settings.data_set)
    image = kind == "image"
    many_views = mode == "test" and not image
    return ClipPlan(
        mode=mode,
        sample=partial(uniform_indices, clip_len=1) if image else _sampler(preset, settings),
        transform=_transform(mode, preset, image, settings),
        clip_shape=(3, 1 if image else settings.num_frames, *as_pair(settings.input_size)),
        segments=settings.test_num_segment if many_views else 1,
        crops=settings.test_num_crop if many_views else 1,
        repeats=settings.num_sample if mode == "train" else 1,
        seed=settings.seed,
        gpu_transforms=settings.gpu_transforms,
    )


def window_length(settings: DataSettings) -> float:
    """Return the length of the windows in seconds; 0 for whole videos."""
    given = settings.window_seconds
    return get_preset(settings.data_set).window_seconds if given is None else given


def _sampler(preset: Preset, settings: DataSettings) -> Callable:
    name = settings.sampling or preset.sampling
    more = {"sampling_rate": settings.sampling_rate} if name == "dense" else {}
    return partial(SAMPLERS[name], clip_len=settings.num_frames, **more)


def _transform(mode: Mode, preset: Preset, image: bool, settings: DataSettings) -> Compose:
    if mode == "train":
        aa = preset.aa if settings.aa is None else settings.aa
        hflip = preset.hflip if settings.hflip is None else settings.hflip
        build = image_train_transform if image else video_train_transform
        return build(settings.input_size, replace(settings, aa=aa, hflip=hflip))
    if image:
        return image_eval_transform(settings.input_size, settings.crop_pct)
    if mode == "validation":
        return video_validation_transform(settings.input_size, settings.short_side)
    return video_test_transform(settings.input_size, settings.short_side, settings.test_num_crop)
