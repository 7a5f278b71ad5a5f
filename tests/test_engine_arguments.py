"""The flags: none is added or removed unnoticed, all are documented, the defaults are the published ones."""

import argparse

import pytest
from engine_standins import make_args

from engines.arguments import add_engine_arguments
from engines.loss_settings import LossSettings, add_loss_arguments

FLAGS = {
    "output_dir",
    "log_dir",
    "log_interval",
    "track",
    "seed",
    "device",
    "bf16",
    "parallel",
    "dist_timeout",
    "compile",
    "cuda_graph",
    "opt",
    "opt_eps",
    "opt_betas",
    "momentum",
    "weight_decay",
    "layer_decay",
    "layer_decay_scope",
    "clip_grad",
    "update_freq",
    "epochs",
    "start_epoch",
    "steps",
    "lr",
    "min_lr",
    "warmup_lr",
    "lr_base",
    "lr_absolute",
    "scale_min_lr",
    "warmup_epochs",
    "warmup_steps",
    "mixup",
    "cutmix",
    "cutmix_minmax",
    "mixup_prob",
    "mixup_switch_prob",
    "mixup_mode",
    "smoothing",
    "class_weights",
    "multilabel_loss",
    "regression_loss",
    "view_merge",
    "model_ema",
    "model_ema_decay",
    "model_ema_warmup",
    "save_ckpt_freq",
    "save_every_steps",
    "max_skipped_steps",
    "override_checkpoint",
    "resume",
    "auto_resume",
    "eval",
    "eval_freq",
    "test_best",
    "disable_eval_during_finetuning",
}

SWITCHES = {"bf16", "compile", "scale_min_lr", "model_ema", "model_ema_warmup", "auto_resume", "eval", "test_best"}
SWITCHES |= {"disable_eval_during_finetuning", "lr_absolute", "cuda_graph"}


def test_the_flags_are_these_and_each_has_a_help_text():
    parser = argparse.ArgumentParser(add_help=False)
    add_engine_arguments(parser)
    add_loss_arguments(parser)
    assert {option for action in parser._actions for option in action.option_strings} == {
        f"--{f}" for f in FLAGS | {f"no-{f}" for f in SWITCHES}
    }
    assert all(action.help for action in parser._actions)
    assert "--lr_base" in parser.format_help()


def test_defaults_of_the_recipes():
    args = make_args()
    assert (args.opt, args.opt_betas, args.opt_eps, args.layer_decay) == ("adamw", (0.9, 0.999), 1e-8, 0.75)
    loss = LossSettings()
    assert (loss.mixup, loss.cutmix, loss.mixup_prob, loss.mixup_switch_prob, loss.mixup_mode, loss.smoothing) == (
        0.8,
        1.0,
        1.0,
        0.5,
        "batch",
        0.1,
    )
    assert (args.warmup_lr, args.min_lr, args.lr_base, args.scale_min_lr) == (1e-6, 1e-6, 256, True)
    assert args.clip_grad is None and not args.model_ema and args.auto_resume


def test_update_freq_of_zero_is_refused(capsys):
    with pytest.raises(SystemExit):
        make_args("--update_freq", "0")
    assert "--update_freq: must be a whole number of 1 or more" in capsys.readouterr().err
