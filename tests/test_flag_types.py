"""Flags that cannot be are refused by name when the command line or a recipe is read, not after hours of training."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from engine_standins import TinyModel, classify, make_args

import run_action_detection
import run_class_finetuning
import run_inference
import run_pretrain_imagenet
import run_pretrain_masked
from common.flag_types import fraction, frame_template, non_negative, positive, positive_int, proper_fraction, seed
from engines.distributed import Context
from engines.recipe import RecipeError
from engines.recipe_flags import check_flags
from engines.state import create_training_state

ROOT = Path(__file__).parent.parent
SOURCES = {p.stem: p.read_text(encoding="utf-8") for p in sorted((ROOT / "tools").glob("*.py"))}
TOOLS = [name for name, source in SOURCES.items() if "add_argument(" in source and "FlagParser(" in source]


class _ParserMadeError(Exception):
    """Carries the parser of a tool that makes it on the way."""


def parser_of_tool(name, monkeypatch):
    def stop(parser, *_):
        raise _ParserMadeError(parser)

    module = importlib.import_module(f"tools.{name}")
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    with pytest.raises(_ParserMadeError) as made:
        getattr(module, "parse_arguments", getattr(module, "main", None))([])
    monkeypatch.undo()
    return made.value.args[0]


def actions_of(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions_of(command)
        else:
            yield action


def takes_numbers(action):
    """Whether the flag's type makes "1" a number."""
    try:
        return action.type is not None and isinstance(action.type("1"), (int, float))
    except (argparse.ArgumentTypeError, ValueError):
        return False


def taken(action, text):
    try:
        action.type(text)
    except (argparse.ArgumentTypeError, ValueError):
        return False
    return action.choices is None or action.type(text) in action.choices


def assert_nonsense_is_refused(parser):
    numbers = [action for action in actions_of(parser) if takes_numbers(action)]
    careless = [
        f"{action.option_strings[0]} {text}"
        for action in numbers
        for text in ("nan", "inf", "-inf", "-2", "1e400", "", "x")
        if taken(action, text)
    ]
    assert not careless
    for action in numbers:  # what is refused must not be the published value
        values = action.default if isinstance(action.default, (list, tuple)) else [action.default]
        assert all(value is None or value == 0 or taken(action, str(value)) for value in values), action.dest


@pytest.mark.parametrize("script", [run_action_detection, run_class_finetuning, run_pretrain_imagenet, run_inference])
def test_no_flag_of_a_script_takes_nonsense(script):
    assert_nonsense_is_refused(script.get_parser())


@pytest.mark.parametrize("tool", TOOLS)
def test_no_flag_of_a_tool_takes_nonsense(tool, monkeypatch):
    assert_nonsense_is_refused(parser_of_tool(tool, monkeypatch))


@pytest.mark.parametrize(
    "words",
    ["--test_num_segment 0", "--test_num_crop 0", "--read_timeout -1", "--seed -1", "--lr nan", "--lr -1",
     "--model_ema_decay 1.5", "--model_ema_decay 1", "--num_frames 0", "--sampling_rate 0", "--batch_size 0",
     "--num_sample 0", "--opt_betas 0.9 1", "--layer_decay 0", "--layer_decay 1.1", "--clip_grad 0", "--drop_path 1",
     "--smoothing 1", "--mixup_prob 2", "--hflip -0.1", "--reprob 1.1", "--warmup_steps -2", "--epochs -1",
     "--save_ckpt_freq -1", "--cutmix_minmax 0 2", "--scale 0 1", "--lr_base 0", "--tubelet_size 0", "--nb_classes -1",
     "--global_batch -8", "--filename_tmpl img.jpg", "--filename_tmpl img_{}_{}.jpg", "--filename_tmpl img_{:05"],
)  # fmt: skip
def test_the_flag_is_named(words, capsys):
    flag, *values = words.split()
    with pytest.raises(SystemExit) as stop:
        run_class_finetuning.get_parser().parse_args([flag, *values])
    assert stop.value.code == 2
    reported = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {flag}" in reported and "must" in reported and "function" not in reported


@pytest.mark.parametrize(
    "words", ["--lr 0", "--read_timeout 0", "--epochs 0", "--seed 4294967295", "--warmup_steps -1", "--num_workers 0",
              "--filename_tmpl frame{:d}.png", "--model_ema_decay 0", "--layer_decay 1", "--crop_pct 1"],
)  # fmt: skip
def test_the_ends_of_the_ranges_are_taken(words):
    run_class_finetuning.get_parser().parse_args(words.split())


@pytest.mark.parametrize("name, value", [("lr", float("nan")), ("test_num_segment", 0), ("seed", -1), ("hflip", 2)])
def test_recipes_and_saved_settings_pass_the_same_types(name, value):
    with pytest.raises(RecipeError, match=rf"x\.yaml: {name}: .*--{name}"):
        check_flags(run_class_finetuning.get_parser(), {name: value}, Path("x.yaml"))


@pytest.mark.parametrize("script", [run_action_detection, run_class_finetuning, run_pretrain_masked])
def test_saved_settings_may_hold_every_default(script):
    parser = script.get_parser()
    defaults = {name: value for name, value in vars(parser.parse_args([])).items() if value is not None}
    check_flags(parser, defaults, Path("args.json"))


def test_what_the_types_read():
    assert (positive_int("3"), seed("0"), fraction("1"), proper_fraction("0"), non_negative("0")) == (3, 0, 1, 0, 0)
    assert positive("1e-8") == 1e-8 and frame_template("%d{:03}.jpg") == "%d{:03}.jpg"
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number above 0, not 0"):
        positive("0")
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number of 0 or more and below 1, not 1.0"):
        proper_fraction("1.0")


def test_the_script_ends_with_2_before_it_reads_a_list():
    words = [sys.executable, "run_class_finetuning.py", "--test_num_segment", "0", "--data_path", "/absent"]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2 and "--test_num_segment: must be a whole number of 1 or more, not 0" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_first_epoch_after_the_last_is_refused():
    with pytest.raises(ValueError, match="--start_epoch 3 leaves nothing to train: --epochs is 3"):
        create_training_state(
            classify(TinyModel()), make_args("--start_epoch", "3", "--epochs", "3"), Context(), steps_per_epoch=1
        )
