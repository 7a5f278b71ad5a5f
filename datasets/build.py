"""From flags to data sets and loaders: `build_dataset(mode, args)`, `build_loader(dataset, mode, args, ...)`."""

import argparse
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from datasets.annotations import Kind, Record, find_absent, find_list, read_list
from datasets.balanced_sampler import BalancedSampler
from datasets.class_labels import count_classes, describe_empty_classes
from datasets.clip_dataset import ClipDataset, ClipPlan
from datasets.collate import Collate
from datasets.frame_names import find_first_frame
from datasets.image_list import ImageListDataset
from datasets.label_names import read_label_names
from datasets.list_lines import evenly_spread
from datasets.loader import ClipLoader, EvalSampler, TrainSampler
from datasets.presets import Preset, get_preset
from datasets.rawframe_cls import RawFrameClsDataset
from datasets.readers import Guard
from datasets.sampling import Mode, dense_indices, sparse_indices, uniform_indices
from datasets.transforms import (
    Compose,
    image_eval_transform,
    image_train_transform,
    video_test_transform,
    video_train_transform,
    video_validation_transform,
)
from datasets.video_cls import VideoClsDataset
from datasets.worker import start_worker

logger = logging.getLogger(__name__)

MODES = {"train": "train", "validation": "val", "test": "test"}


def build_dataset(mode: Mode, args: argparse.Namespace) -> ClipDataset:
    """Build the data set of a mode.

    Args:
        mode: "train", "validation" or "test".
        args: the flags of `datasets.arguments`; `seed`, of the engine, where there is one.

    Raises:
        FileNotFoundError: a list is missing, or none of the files that a list names is there.
        ValueError: a list has faulty lines or labels that cannot be meant, --label_names does not fit it, frames are
            named otherwise than the flags say, or flags contradict each other.
    """
    if mode not in MODES:
        raise ValueError(f'mode is one of {", ".join(MODES)}, not "{mode}"')
    preset = get_preset(args.data_set)
    list_file = _list_file(mode, args)
    num_classes = _fixed_classes(preset, args) or _classes_of_training_list(preset, args)
    if args.label_names:
        read_label_names(args.label_names, num_classes)
    records, kind = read_list(
        list_file, kind=preset.kind, data_root=args.data_root, split=args.split, num_classes=num_classes
    )
    _check_some_files(records, list_file)
    if mode == "train" and (empty := describe_empty_classes(records, num_classes)):
        logger.warning("%s: %s", list_file, empty)
    plan = build_plan(mode, preset, kind, args)
    guard = Guard(args.read_timeout) if args.read_timeout else None
    shared = {"num_classes": num_classes, "list_file": str(list_file), "guard": guard}
    if kind == "video":
        dataset = VideoClsDataset(records, plan, reader=args.reader, **shared)
    else:
        folder_class = ImageListDataset if kind == "image" else RawFrameClsDataset
        # args.json of a run before the flag has none
        first_frame = getattr(args, "first_frame", None)
        if first_frame is None:
            first_frame = find_first_frame(records, args.filename_tmpl, list_file)
        dataset = folder_class(records, plan, filename_tmpl=args.filename_tmpl, first_frame=first_frame, **shared)
    logger.info("%s: %d clips of kind %s, %d classes, from %s", mode, len(records), kind, num_classes, list_file)
    return dataset


def build_loader(
    dataset: ClipDataset, mode: Mode, args: argparse.Namespace, *, rank: int = 0, world_size: int = 1
) -> ClipLoader:
    """Build the loader of a data set for one process of `world_size`.

    Training gives `args.batch_size` videos a step, in a new order each epoch (`loader.sampler.set_epoch`), and drops
    what does not fill a step. Evaluation reads every record once over all processes: validation in batches half as
    large again, testing in batches of about `args.batch_size` views.

    Raises:
        ValueError: the training list does not fill a single step, or --read_timeout and --dist_timeout do not fit.
    """
    if world_size > 1 and dataset.guard is not None:
        _bound_time_lost(dataset.guard, args)
    train = mode == "train"
    views = dataset.plan.segments * dataset.plan.crops if mode == "test" else 0
    if train:
        shards = dict(rank=rank, world_size=world_size, seed=dataset.plan.seed)
        if args.sampler == "balanced":
            sampler = BalancedSampler([record.target for record in dataset.records], **shards)
        else:
            sampler = TrainSampler(len(dataset), **shards)
        batch_size = args.batch_size
        if len(sampler) == 0:
            raise ValueError(
                f"{dataset.list_file} has {len(dataset)} videos, fewer than the {world_size} processes of this run, "
                f"and each needs one of its own; start {len(dataset)} processes or fewer"
            )
        if len(sampler) < batch_size:
            raise ValueError(
                f"{dataset.list_file} has {len(dataset)} videos, too few for a step of --batch_size {batch_size} "
                f"on {world_size} process(es); make --batch_size {len(sampler)} or less"
            )
    else:
        sampler = EvalSampler(len(dataset), rank=rank, world_size=world_size)
        batch_size = max(1, args.batch_size // views if views else int(1.5 * args.batch_size))
    return ClipLoader(
        dataset,
        replaced=train,
        strict=args.strict_data and not train,
        sampler=sampler,
        batch_size=batch_size,
        drop_last=train,
        num_workers=args.num_workers,
        persistent_workers=args.num_workers > 0,
        pin_memory=args.pin_mem and torch.cuda.is_available(),
        collate_fn=Collate(dataset.plan.clip_shape, views=views),
        worker_init_fn=start_worker,
        # Its own, unused but for seeding workers: drawing from the global generator, once in a process, would make a
        # resumed run's random numbers differ.
        generator=torch.Generator(),
    )


def _bound_time_lost(guard: Guard, args: argparse.Namespace) -> None:
    """Keep files that take too long from making the other processes give up on this one."""
    patience = getattr(args, "dist_timeout", math.inf)
    if 4 * guard.time_limit > patience:
        raise ValueError(
            f"--read_timeout {guard.time_limit:g} is too long for processes that wait --dist_timeout {patience:g} s "
            f"for each other: make it {patience / 4:g} or less, or --dist_timeout {4 * guard.time_limit:g} or more"
        )
    guard.budget = patience / 2


def _list_file(mode: Mode, args: argparse.Namespace) -> Path:
    """Find the list of a mode; a test list that is nowhere is the validation list."""
    name = MODES[mode]
    given = getattr(args, f"{name}_list")
    if given:
        return Path(given)
    if not args.data_path:
        raise FileNotFoundError(f"no {name} list: give --data_path DIR with {name}.csv, or --{name}_list FILE")
    try:
        return find_list(args.data_path, name)
    except FileNotFoundError:
        if mode != "test" or not Path(args.data_path).is_dir():
            raise
        logger.warning("there is no test list in %s; the validation list is tested", args.data_path)
        return _list_file("validation", args)


def _fixed_classes(preset: Preset, args: argparse.Namespace) -> int:
    """Give the number of classes that preset or flag say, 0 where neither does."""
    if preset.num_classes and args.nb_classes not in (0, preset.num_classes):
        raise ValueError(
            f"--nb_classes {args.nb_classes} contradicts --data_set {preset.name}, which has {preset.num_classes}; "
            "leave it out, or take --data_set custom"
        )
    return preset.num_classes or args.nb_classes


def _classes_of_training_list(preset: Preset, args: argparse.Namespace) -> int:
    """Count the classes of the training list, so that all modes agree on their number."""
    try:
        list_file = _list_file("train", args)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} (or say the number of classes with --nb_classes)") from error
    records, _ = read_list(list_file, kind=preset.kind, data_root=args.data_root, split=args.split)
    return count_classes(records, list_file)


def _check_some_files(records: Sequence[Record], list_file: Path, count: int = 32) -> None:
    """Look for a few files over the list: when none is there, the root is wrong and a run would be wasted."""
    some = evenly_spread(records, count)
    absent = find_absent(some)
    if not absent:
        return
    first, reason = absent[0]
    told = f"line {first.line}: {first.path} {reason}"
    if len(absent) == len(some):
        raise FileNotFoundError(
            f"{list_file}: none of {len(some)} files looked for is there, first {told}; "
            "paths are relative to --data_root, or else to the current folder"
        )
    logger.warning("%s: %d of %d files looked for are missing, first %s", list_file, len(absent), len(some), told)


def build_plan(mode: Mode, preset: Preset, kind: Kind, args: argparse.Namespace) -> ClipPlan:
    """Put together how records of a kind become clips in a mode."""
    image = kind == "image"
    many_views = mode == "test" and not image
    return ClipPlan(
        mode=mode,
        sample=partial(uniform_indices, clip_len=1) if image else _sampler(args.sampling or preset.sampling, args),
        transform=(_image_transform if image else _video_transform)(mode, preset, args),
        clip_shape=(3, 1 if image else args.num_frames, args.input_size, args.input_size),
        segments=args.test_num_segment if many_views else 1,
        crops=args.test_num_crop if many_views else 1,
        repeats=args.num_sample if mode == "train" else 1,
        seed=getattr(args, "seed", 0),
        gpu_transforms=args.gpu_transforms,
    )


def _sampler(name: str, args: argparse.Namespace) -> Callable:
    if name == "dense":
        return partial(dense_indices, clip_len=args.num_frames, sampling_rate=args.sampling_rate)
    return partial({"sparse": sparse_indices, "uniform": uniform_indices}[name], clip_len=args.num_frames)


def _video_transform(mode: Mode, preset: Preset, args: argparse.Namespace) -> Compose:
    if mode == "validation":
        return video_validation_transform(args.input_size, args.short_side_size)
    if mode == "test":
        return video_test_transform(args.input_size, args.short_side_size, args.test_num_crop)
    return video_train_transform(args.input_size, **_augmentation(preset, args))


def _image_transform(mode: Mode, preset: Preset, args: argparse.Namespace) -> Compose:
    if mode != "train":
        return image_eval_transform(args.input_size, args.crop_pct)
    return image_train_transform(args.input_size, color_jitter=args.color_jitter, **_augmentation(preset, args))


def _augmentation(preset: Preset, args: argparse.Namespace) -> dict:
    return {
        "aa": preset.aa if args.aa is None else args.aa,
        "interpolation": args.train_interpolation,
        "scale": tuple(args.scale),
        "ratio": tuple(args.ratio),
        "hflip": preset.hflip if args.hflip is None else args.hflip,
        "reprob": args.reprob,
        "remode": args.remode,
        "recount": args.recount,
    }
