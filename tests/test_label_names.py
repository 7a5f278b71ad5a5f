"""Class names: a file that matches the lists is saved with the run, any other is refused before the run starts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import run_class_finetuning
from datasets.arguments import DataSettings
from datasets.build import build_dataset
from datasets.label_names import LabelNamesError, read_label_names
from engines.configuration import parse_arguments
from engines.evaluate import Evaluation
from engines.objectives.classification import Classification
from engines.results import AboutTest, write_results
from engines.settings import plain_flags
from models.videomambapro import VideoMambaPro


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def parsed(*words):
    return parse_arguments(run_class_finetuning.get_parser(), words, script=run_class_finetuning.SCRIPT)


def test_a_name_a_line(tmp_path):
    path = write(tmp_path / "labels.txt", "\ufeffhigh jump\nSchwimmen, 蛙泳\n\n")
    assert read_label_names(path) == ["high jump", "Schwimmen, 蛙泳"]
    assert read_label_names(path, 2) == ["high jump", "Schwimmen, 蛙泳"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nb\n", "has 2 names, but there are 3 classes"),
        ("a\nb\nc\nd\n", "has 4 names, but there are 3 classes"),
        ("a\n\nc\n", "line 2: the name for label 1 is missing"),
        ("a\nb\na\n", 'line 3: "a" is already the name in line 1'),
        ("", "line 1: the name for label 0 is missing"),
    ],
)
def test_names_that_do_not_fit_are_told_with_their_file(tmp_path, text, said):
    path = write(tmp_path / "labels.txt", text)
    with pytest.raises(LabelNamesError, match=said) as error:
        read_label_names(path, 3)
    assert str(path) in str(error.value)


def test_files_that_hold_no_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.txt does not exist"):
        read_label_names(tmp_path / "absent.txt")
    (tmp_path / "v.mp4").write_bytes(bytes([0, 255, 254]))
    with pytest.raises(LabelNamesError, match="not UTF-8"):
        read_label_names(tmp_path / "v.mp4")


def test_names_are_checked_against_the_lists(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text("-")
    for name in ("train", "val", "test"):
        write(tmp_path / f"{name}.csv", "a.mp4 0\nb.mp4 1\n")
    names = write(tmp_path / "labels.txt", "left\nright\nneither\n")
    settings = DataSettings(data_path=str(tmp_path), data_root=str(tmp_path), label_names=str(names))
    with pytest.raises(LabelNamesError, match="labels.txt has 3 names, but there are 2 classes"):
        build_dataset("train", settings)
    assert build_dataset("train", replace(settings, nb_classes=3)).num_classes == 3


def test_a_run_keeps_the_names_and_takes_its_settings_back(tmp_path):
    names = write(tmp_path / "labels.txt", "left\nright\n")
    args = parsed("--label_names", str(names))
    assert args.class_names == ["left", "right"]
    settings = write(tmp_path / "args.json", json.dumps(plain_flags(args)))
    assert parsed("--config", str(settings)).class_names == ["left", "right"]
    assert parsed().class_names is None
    assert parsed("--output_dir", str(tmp_path)).class_names is None, "there is nothing to resume"
    (tmp_path / "checkpoint-latest.pth").touch()
    assert parsed("--output_dir", str(tmp_path)).class_names == ["left", "right"]
    assert parsed("--output_dir", str(tmp_path), "--no_auto_resume").class_names is None


def test_an_evaluated_file_says_the_names_of_its_classes(tmp_path):
    model = VideoMambaPro(embed_dim=96, depth=6, num_classes=3, num_frames=4, img_size=32)
    content = {"model": model.state_dict(), "args": {"class_names": ["a", "b", "c"]}}
    torch.save(content, tmp_path / "w.pth")
    other = write(tmp_path / "labels.txt", "x\ny\nz\n")
    words = ["--eval", "--finetune", str(tmp_path / "w.pth")]
    assert parsed(*words).class_names == ["a", "b", "c"]
    assert parsed(*words, "--label_names", str(other)).class_names == ["x", "y", "z"]


def test_results_name_the_classes(tmp_path):
    videos = SimpleNamespace(records=[SimpleNamespace(path="a.mp4", target=0, line=1)])
    objective = Classification(torch.nn.Identity(), 2, class_names=["left", "right"])
    outputs = np.log(np.array([[0.75, 0.25]], np.float32))
    result = Evaluation(objective.figures(outputs, videos.records), outputs, videos.records, np.zeros(1, int), 1, [])
    path = write_results(str(tmp_path), result, objective, videos, AboutTest("m", "w"))
    assert json.loads(path.read_text())["label_names"] == ["left", "right"]
