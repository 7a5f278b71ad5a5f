"""Pretrain on images, as videos of one frame: `python run_pretrain_imagenet.py --data_path LISTS --data_root IMAGES`.

The lists have lines `frame_folder_path total_frames label` or `image_path label`. The script uses the same engine as
run_class_finetuning.py, with VideoMamba's ImageNet defaults; pass its `checkpoint-best.pth` there as `--finetune`.
`--teacher FILE` distils from a smaller model of the family, as VideoMamba's middle model was trained.
"""

import argparse

from engines.early_stop import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # before the imports below, which take seconds

from dataclasses import replace

from torch.distributed.elastic.multiprocessing.errors import record

from common.settings import from_flags
from datasets.arguments import DataSettings
from datasets.build import build_dataset, build_loader
from datasets.clip_dataset import ClipDataset
from engines.batch import fit_batch_to_list
from engines.checkpoint import resume_training
from engines.configuration import parse_command_line, recipe_defaults
from engines.distributed import close_distributed
from engines.dry_run import dry_run
from engines.objectives.classification import Classification
from engines.objectives.distillation import Distillation
from engines.objectives.mixing import LossSettings
from engines.runner import fit, run_test, start_run
from engines.settings import RunSettings
from engines.state import create_training_state
from engines.train import updates_per_epoch
from models.arguments import ModelSettings, WeightSettings
from models.build import build_model, load_finetune_checkpoint
from models.distillation import add_distillation_arguments, load_teacher
from models.videomambapro import VideoMambaPro
from reports.best_effort import try_to_report
from run_class_finetuning import classify
from run_class_finetuning import get_parser as get_video_parser

SCRIPT = "run_pretrain_imagenet.py"
DEFAULTS = "imagenet"  # recipe file whose common flags are the defaults


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of image pretraining: the flags of videos, with the image recipe's defaults."""
    parser = get_video_parser()
    parser.description = "VideoMambaPro: pretraining and evaluation on images"
    add_distillation_arguments(parser)
    recipe_defaults(parser, DEFAULTS)
    return parser


def create_objective(
    model: VideoMambaPro, args: argparse.Namespace, num_classes: int, train_set: ClipDataset | None
) -> Classification:
    """Create the objective of the run: classification, with distillation if it trains with a --teacher."""
    if not args.teacher or train_set is None:
        return classify(model, args, num_classes, train_set)
    teacher = load_teacher(
        args.teacher,
        input_size=args.input_size,
        num_frames=args.num_frames,
        tubelet_size=args.tubelet_size,
        backend=args.backend,
    )
    return Distillation(
        model,
        num_classes,
        from_flags(LossSettings, args),
        teacher=teacher,
        weight=args.distill_weight,
        labels=[record.target for record in train_set.records],
        class_names=args.class_names,
    )


@record  # lets torchrun show the traceback of the process that failed first
def main(flags: argparse.Namespace) -> None:
    """Train (unless --eval), then test the centre crop of every validation image."""
    if flags.dry_run is not None:
        raise SystemExit(dry_run(flags, get_parser(), SCRIPT))
    context, settings = start_run(RunSettings.of(flags))
    shards = dict(rank=context.rank, world_size=context.world_size)

    # Read all lists first, so that errors in them are reported before anything is built.
    data = DataSettings.from_flags(flags)
    val_set = build_dataset("validation", data)
    train_set = None if settings.eval else build_dataset("train", data)
    val_loader = build_loader(val_set, "validation", data, **shards)

    model = build_model(ModelSettings.from_flags(flags), val_set.num_classes)
    load_finetune_checkpoint(model, from_flags(WeightSettings, flags))
    objective = create_objective(model, flags, val_set.num_classes, train_set)

    state = None
    if train_set is not None:
        settings = fit_batch_to_list(settings, len(train_set), context.world_size)
        data = replace(data, batch_size=settings.batch_size)
        train_loader = build_loader(train_set, "train", data, **shards)
        steps = updates_per_epoch(train_loader, settings.update_freq)
        state = create_training_state(objective, settings, context, steps_per_epoch=steps)
        resume_training(state, settings, context)
        fit(state, train_loader, val_loader, settings, context)

    run_test(objective, val_loader, settings, context, state=state)
    if settings.output_dir and context.is_main:
        try_to_report(settings.output_dir, val_set)
    close_distributed()


if __name__ == "__main__":
    main(parse_command_line(get_parser(), script=SCRIPT))
