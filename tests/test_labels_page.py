"""docs/labels.md: its commands parse, its flags are there, and its example is what a reader is told."""

import re
import shlex
from pathlib import Path

import pytest

import run_class_finetuning
import run_inference
from datasets.annotations import ListFileError, read_list
from tools.make_lists import parse_arguments as lists_arguments

PAGE = (Path(__file__).parent.parent / "docs" / "labels.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
PARSERS = {
    "run_class_finetuning.py": lambda words: run_class_finetuning.get_parser().parse_args(words),
    "run_inference.py": lambda words: run_inference.get_parser().parse_args(words),
    "tools.make_lists": lists_arguments,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command):
    words = shlex.split(command)
    program = words[2] if words[1] == "-m" else words[1]
    PARSERS[program](words[words.index(program) + 1 :])


def test_the_example_of_a_faulty_line_is_what_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.csv").write_text("clips/a.mp4 1\nclips/b.mp4 3;17\n")
    (example,) = re.findall(r"^```\n(lists/train.csv: .*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    with pytest.raises(ListFileError) as error:
        read_list("lists/train.csv")
    assert str(error.value).startswith(example)
