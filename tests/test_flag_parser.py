"""Dashes and underscores are alike, nothing is abbreviated, and a typing error is answered with a suggestion."""

import subprocess
import sys
from pathlib import Path

import pytest

import run_class_finetuning
from common.flag_parser import FlagParser

ROOT = Path(__file__).parent.parent


def small_parser():
    parser = FlagParser(prog="p")
    parser.add_argument("--batch_size", "-b", type=int)
    parser.add_argument("--no-x")
    parser.add_argument("rest", nargs="*")
    return parser


@pytest.mark.parametrize("words", [["--batch-size", "3"], ["--batch_size=3"], ["--batch-size=3"], ["-b", "3"]])
def test_dashes_and_underscores_are_alike(words):
    assert small_parser().parse_args(words).batch_size == 3


def test_only_flags_that_are_there_are_spelled_anew():
    args, unknown = small_parser().parse_known_args(["--no_x=--no_x", "a-b_c", "--no_z", "--nox"])
    assert (args.no_x, args.rest, unknown) == ("--no_x", ["a-b_c"], ["--no_z", "--nox"])


def test_flags_of_a_subcommand_are_alike():
    parser = FlagParser()
    parser.add_subparsers().add_parser("go").add_argument("--no_y", action="store_true")
    assert parser.parse_args(["go", "--no-y"]).no_y


@pytest.mark.parametrize(("word", "suggestion"), [("--batchsize", "--batch_size"), ("--batch-sizes", "--batch_size")])
def test_an_unknown_flag_is_answered_with_the_nearest(word, suggestion, capsys):
    with pytest.raises(SystemExit) as ended:
        small_parser().parse_args([word, "3"])
    assert ended.value.code == 2
    assert f"did you mean {suggestion}?" in capsys.readouterr().err


def test_where_nothing_is_near_nothing_is_suggested(capsys):
    with pytest.raises(SystemExit):
        small_parser().parse_args(["--quux"])
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--checkpoint", "--gpu", "--test"])
def test_a_run_refuses_abbreviations(word, capsys):
    with pytest.raises(SystemExit):
        run_class_finetuning.get_parser().parse_args([word, "1"])
    assert f"unrecognized arguments: {word}" in capsys.readouterr().err


SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tools").glob("*.py"))}


@pytest.mark.parametrize("tool", [name for name, source in SOURCES.items() if "__main__" in source])
def test_every_tool_parses_so(tool):
    assert "FlagParser(" in SOURCES[tool] and "ArgumentParser(" not in SOURCES[tool]


def test_a_tool_on_the_command_line():
    ended = subprocess.run(
        [sys.executable, "-m", "tools.make_moving_digits", "--output", "x", "--frame-clip", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and "--frame_clips" in ended.stderr
