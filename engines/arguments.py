"""Command-line flags of the training and test loop, with the names VideoMAE and VideoMamba users know."""

import argparse


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags read by engines/ to `parser`, in one titled group per subject."""
    _add_run_arguments(parser.add_argument_group("run"))
    _add_parallel_arguments(parser.add_argument_group("several processes, and compiling"))
    _add_optimizer_arguments(parser.add_argument_group("optimiser"))
    _add_schedule_arguments(parser.add_argument_group("learning-rate schedule (one step per optimiser update)"))
    _add_regularisation_arguments(parser.add_argument_group("mixing, smoothing and averaging"))
    _add_checkpoint_arguments(parser.add_argument_group("checkpoints"))
    _add_test_arguments(parser.add_argument_group("evaluation"))


def _add_run_arguments(group) -> None:
    group.add_argument(
        "--output_dir",
        default="",
        help="folder for checkpoints, log.txt, args.json and results.json; "
        "nothing is written when empty (default: empty)",
    )
    group.add_argument("--log_dir", default="", help="folder for TensorBoard files (default: --output_dir)")
    group.add_argument(
        "--log_interval", type=_positive_int, default=20, help="optimiser updates between two log lines (default: 20)"
    )
    group.add_argument("--seed", type=int, default=0, help="random seed; the rank is added to it (default: 0)")
    group.add_argument("--device", default="", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    group.add_argument(
        "--bf16",
        action="store_true",
        default=None,
        help="compute in bfloat16 by autocast; weights stay float32 (default: with CUDA only)",
    )
    group.add_argument("--no_bf16", action="store_false", dest="bf16", help="compute in float32")


def _add_parallel_arguments(group) -> None:
    group.add_argument(
        "--parallel",
        choices=("ddp", "fsdp"),
        default="ddp",
        help="ddp: each process holds the whole model; fsdp: each holds a part of weights, gradients and moments "
        "(FSDP2). Checkpoints are the same (default: ddp)",
    )
    group.add_argument(
        "--dist_timeout",
        type=_positive_int,
        default=600,
        help="seconds that a process waits for the others before the run ends with an error (default: 600)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="translate the model with torch.compile at its first step (default: off)",
    )


def _add_optimizer_arguments(group) -> None:
    group.add_argument("--opt", default="adamw", help="optimiser, by timm's name (default: adamw)")
    group.add_argument("--opt_eps", type=float, default=1e-8, help="epsilon of the optimiser (default: 1e-8)")
    group.add_argument(
        "--opt_betas",
        type=float,
        nargs="+",
        default=[0.9, 0.999],
        help="betas of Adam-like optimisers (default: 0.9 0.999)",
    )
    group.add_argument("--momentum", type=float, default=0.9, help="momentum of SGD-like optimisers (default: 0.9)")
    group.add_argument(
        "--weight_decay",
        type=float,
        default=0.05,
        help="weight decay; biases, norms and what the model names have none (default: 0.05)",
    )
    group.add_argument(
        "--layer_decay",
        type=float,
        default=0.75,
        help="factor of the learning rate per layer below the head; 1 switches it off (default: 0.75)",
    )
    group.add_argument(
        "--layer_decay_scope",
        choices=("embeddings", "layers"),
        default="embeddings",
        help="what --layer_decay reaches: patch, position and class embeddings alone, as in all published runs, or "
        "every layer by its position, as VideoMAE does (default: embeddings)",
    )
    group.add_argument(
        "--clip_grad",
        type=float,
        default=None,
        help="largest gradient norm; larger gradients are scaled down to it (default: no clipping)",
    )
    group.add_argument(
        "--update_freq",
        type=_positive_int,
        default=1,
        help="batches accumulated for one optimiser update (default: 1)",
    )


def _add_schedule_arguments(group) -> None:
    group.add_argument("--epochs", type=int, default=30, help="epochs in all (default: 30)")
    group.add_argument(
        "--start_epoch",
        type=int,
        default=0,
        help="first epoch, counted from 0; a resumed checkpoint overrides it (default: 0)",
    )
    group.add_argument(
        "--lr",
        type=float,
        default=1e-3,
        help="peak learning rate for --lr_base clips per update; it is multiplied by "
        "batch_size x processes x update_freq x num_sample / lr_base (default: 1e-3)",
    )
    group.add_argument(
        "--min_lr",
        type=float,
        default=1e-6,
        help="learning rate at the end of the cosine, scaled like --lr (default: 1e-6)",
    )
    group.add_argument(
        "--warmup_lr",
        type=float,
        default=1e-6,
        help="learning rate at the first update, scaled like --lr (default: 1e-6)",
    )
    group.add_argument(
        "--lr_base",
        type=float,
        default=256,
        help="clips per update that --lr is meant for (default: 256; the image recipes use 512)",
    )
    group.add_argument(
        "--scale_min_lr", action="store_true", default=True, help="scale --min_lr and --warmup_lr as well (default)"
    )
    group.add_argument(
        "--no_scale_min_lr",
        action="store_false",
        dest="scale_min_lr",
        help="take --min_lr and --warmup_lr as they are, as the image recipes do",
    )
    group.add_argument("--warmup_epochs", type=float, default=5, help="epochs of linear warm-up (default: 5)")
    group.add_argument(
        "--warmup_steps",
        type=int,
        default=-1,
        help="optimiser updates of warm-up; overrides --warmup_epochs when above 0 (default: -1)",
    )


def _add_regularisation_arguments(group) -> None:
    group.add_argument("--mixup", type=float, default=0.8, help="mixup alpha, 0 for none (default: 0.8)")
    group.add_argument("--cutmix", type=float, default=1.0, help="cutmix alpha, 0 for none (default: 1.0)")
    group.add_argument(
        "--cutmix_minmax",
        type=float,
        nargs=2,
        default=None,
        metavar=("MIN", "MAX"),
        help="smallest and largest side of the cutmix box as a share of the frame; "
        "switches cutmix on and overrides its alpha (default: unset)",
    )
    group.add_argument(
        "--mixup_prob", type=float, default=1.0, help="probability of mixing a batch at all (default: 1)"
    )
    group.add_argument(
        "--mixup_switch_prob", type=float, default=0.5, help="probability of cutmix where both are on (default: 0.5)"
    )
    group.add_argument(
        "--mixup_mode",
        choices=("batch", "pair", "elem"),
        default="batch",
        help="draw the mixing per batch, pair of clips or clip (default: batch)",
    )
    group.add_argument("--smoothing", type=float, default=0.1, help="label smoothing (default: 0.1)")
    group.add_argument(
        "--class_weights",
        choices=("none", "balanced"),
        default="none",
        help="balanced: weigh each class's loss by the inverse of its share of the training list (default: none)",
    )
    group.add_argument(
        "--model_ema",
        action="store_true",
        help="keep a moving average of the weights; it is validated and tested (default: off)",
    )
    group.add_argument(
        "--model_ema_decay", type=float, default=0.9999, help="decay of the average per update (default: 0.9999)"
    )
    group.add_argument(
        "--model_ema_warmup",
        action="store_true",
        help="let the decay grow from 0, for runs of less than about 50,000 updates (default: off)",
    )


def _add_checkpoint_arguments(group) -> None:
    group.add_argument(
        "--save_ckpt_freq",
        type=int,
        default=0,
        help="keep checkpoint-EPOCH.pth every so many epochs, beside checkpoint-latest.pth and "
        "checkpoint-best.pth; 0 keeps none (default: 0)",
    )
    group.add_argument(
        "--save_every_steps",
        type=int,
        default=0,
        help="write checkpoint-latest.pth every so many optimiser updates too, not only after an epoch; a run goes on "
        "from there in the middle of the epoch (default: 0, never)",
    )
    group.add_argument(
        "--max_skipped_steps",
        type=int,
        default=10,
        help="optimiser updates of a run that may be skipped because loss or gradient are not finite, each with a "
        "report in nonfinite-STEP.json; one more stops the run (default: 10)",
    )
    group.add_argument(
        "--override_checkpoint",
        nargs="+",
        default=[],
        metavar="FLAG",
        help="flags, such as masked_backward, that may contradict what the checkpoint says of its network "
        "(default: none, a contradiction is an error)",
    )
    group.add_argument("--resume", default="", help="checkpoint to go on from; overrides --auto_resume")
    group.add_argument(
        "--auto_resume",
        action="store_true",
        default=True,
        help="go on from checkpoint-latest.pth in --output_dir where there is one (default)",
    )
    group.add_argument(
        "--no_auto_resume", action="store_false", dest="auto_resume", help="start afresh whatever lies in --output_dir"
    )


def _add_test_arguments(group) -> None:
    group.add_argument("--eval", action="store_true", help="test only, no training")
    group.add_argument(
        "--test_best",
        action="store_true",
        help="test checkpoint-best.pth, not the last epoch's weights (default: off)",
    )
    group.add_argument(
        "--dist_eval",
        action="store_true",
        help="accepted for old scripts; evaluation is always shared among all processes",
    )
    group.add_argument(
        "--disable_eval_during_finetuning",
        action="store_true",
        help="do not validate after each epoch; there is then no checkpoint-best.pth",
    )


def _positive_int(text: str) -> int:
    """Read a whole number above 0; argparse turns the error into a message that names the flag."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value
