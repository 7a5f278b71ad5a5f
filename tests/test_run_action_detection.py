"""run_action_detection.py from its command line: it trains, is killed, goes on, is tested, and refuses other files."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_third_objective import start

import run_action_detection
import run_class_finetuning
from benchmarks.detection_controls import main as controls
from datasets.preparation.digit_scenes import write_scenes
from engines.ava_evaluation import frame_map
from engines.checkpoint import read_checkpoint
from engines.configuration import parse_arguments
from engines.recipe import RecipeError
from engines.run import run_task
from models.build import build_described
from models.describe import describe_checkpoint
from models.detection import ActionDetector
from models.videomambapro import VideoMambaPro

SCENES = dict(seed=0, train=10, val=3, test=4, num_frames=4, size=32, digits_per_clip=(1, 2))
FLAGS = """
    --device cpu --model videomambapro_nano --depth 2 --embed_dim 32 --patch_size 8 --backend portable
    --time_pool concat --num_frames 4 --sampling_rate 1 --fps 2
    --input_size 32 --short_side_size 32 --train_short_side 32 40
    --batch_size 2 --num_workers 0 --read_timeout 0 --epochs 2 --warmup_epochs 0 --lr 0.1 --save_every_steps 1
    --val_every_seconds 1 --box_threshold 0.5
"""
TASK = run_action_detection.TASK
ROOT = Path(__file__).parent.parent
KILLED_AT = 3  # of four updates an epoch
TIMED = ("train_clips_per_second", "train_data_time", "seconds")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, SCENES, workers=1)
    (folder / "exclusions.csv").write_text("test_00001,0001\ntrain_00003,1\n")
    return folder


def parsed(data, *words, flags=FLAGS):
    where = ["--data_path", str(data), "--data_root", str(data / "videos")]
    args = parse_arguments(TASK.get_parser(), [*flags.split(), *where, *words], script=TASK.script)
    run_action_detection.note_classes(args)
    return args


def run(data, output, *words, kill_at=None):
    def with_accident(*arguments):
        objective, updates = TASK.create_objective(*arguments), []

        def die_in_time(*_):
            updates.append(None)
            if len(updates) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        objective.register_forward_hook(die_in_time)
        return objective

    task = replace(TASK, create_objective=with_accident)
    run_task(task, parsed(data, "--output_dir", str(output), *words), lambda *_: None)


def _first(_, data, folder, __):
    run(data, folder / "straight")
    run(data, folder / "parts", kill_at=KILLED_AT)


def _again(_, data, folder, __):
    run(data, folder / "parts")
    run(data, folder / "eval", "--eval", "--finetune", str(folder / "straight" / "checkpoint-latest.pth"))


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """Folders of runs: "straight", which nothing disturbed, "parts", which was killed and went on, and "eval"."""
    folder = tmp_path_factory.mktemp("runs")
    assert not start(_first, 1, folder, data)
    assert (folder / "straight" / "results.json").is_file()
    assert read_checkpoint(folder / "parts" / "checkpoint-latest.pth")["step"] == KILLED_AT - 1
    assert start(_again, 1, folder, data)
    return folder


def results_of(folder, name):
    return json.loads((folder / name / "results.json").read_text())


def test_a_killed_run_goes_on_to_the_same_weights_and_log(folder):
    saved, again = (read_checkpoint(folder / name / "checkpoint-latest.pth") for name in ("straight", "parts"))
    assert all(torch.equal(tensor, again["model"][name]) for name, tensor in saved["model"].items())
    assert {name.partition(".")[0] for name in saved["model"]} == {"backbone", "head"}
    logs = [
        [json.loads(line) for line in (folder / name / "log.txt").read_text().splitlines()]
        for name in ("straight", "parts")
    ]
    for first, second in zip(*logs, strict=True):
        assert {k: v for k, v in first.items() if k not in TIMED} == {
            k: v for k, v in second.items() if k not in TIMED
        }
    assert logs[0][-1]["best_map"] == max(line["val_map"] for line in logs[0])


def test_results_are_those_of_the_files(folder, data):
    results = results_of(folder, "straight")
    with open(folder / "straight" / "detections.csv", encoding="utf-8") as file:
        found = [(v, int(s), *map(float, box), int(a), float(p)) for v, s, *box, a, p in csv.reader(file)]
    with open(data / "test.csv", encoding="utf-8") as file:
        truth = [(v, int(s), *map(float, box), int(a)) for v, s, *box, a, _ in csv.reader(file)]
    mean, _ = frame_map(truth, found, [*range(1, 9), *range(100, 110)], excluded=[("test_00001", 1)])
    assert results["map"] == results["figures"]["map"] == pytest.approx(mean, abs=1e-9)
    assert "test_00001" not in {row[0] for row in found} and results["videos"] == SCENES["test"] - 1
    assert results["person_boxes"].endswith("test_predicted_boxes.csv") and len(results["person_boxes_sha256"]) == 64
    assert (results["box_threshold"], results["person_score"], results["eval_boxes"]) == (0.5, "multiply", "predicted")


def test_a_checkpoint_tells_all_that_a_test_needs(folder, data, caplog):
    file = folder / "straight" / "checkpoint-latest.pth"
    assert results_of(folder, "eval")["map"] == results_of(folder, "straight")["map"]
    rebuilt = build_described(describe_checkpoint(file))
    assert isinstance(rebuilt, ActionDetector) and rebuilt.head.weight.shape == (18, 4 * 32)
    with caplog.at_level("INFO"):
        args = parsed(data, "--eval", "--finetune", str(file), "--device", "cpu", flags="")
    printed = dict(time_pool="concat", num_frames=4, depth=2, embed_dim=32, patch_size=8)
    assert {name: getattr(args, name) for name in printed} == printed
    assert args.class_ids == [*range(1, 9), *range(100, 110)] and args.class_names[8] == "digit 0"


def test_files_of_the_other_kind_are_refused(folder, data, tmp_path):
    file = folder / "straight" / "checkpoint-latest.pth"
    with pytest.raises(
        ValueError, match=r"is an action detector and needs boxes: test it with run_action_detection\.py"
    ):
        words = ["--eval", "--finetune", str(file)]
        parse_arguments(run_class_finetuning.get_parser(), words, script=run_class_finetuning.SCRIPT)
    classifier = VideoMambaPro(img_size=32, num_frames=4, patch_size=8, embed_dim=32, depth=2, num_classes=18)
    torch.save({"model": classifier.state_dict(), "model_config": classifier.config.values()}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="is a classifier of clips and has no head for boxes"):
        parsed(data, "--eval", "--finetune", str(tmp_path / "c.pth"), flags="")
    with pytest.raises(ValueError, match="--time_pool mean, the file has concat"):
        parsed(data, "--eval", "--finetune", str(file), "--time_pool", "mean", flags="")
    with pytest.raises(RecipeError, match=r"is for run_class_finetuning\.py, not for run_action_detection\.py"):
        parsed(data, "--recipe", "k400/tiny_f8_res224")


def test_a_label_map_of_other_classes_is_refused(folder, data, tmp_path):
    text = (data / "label_map.pbtxt").read_text()
    other = tmp_path / "other.pbtxt"
    other.write_text(text.replace('"left"', '"?"').replace('"right"', '"left"').replace('"?"', '"right"'))
    file = folder / "straight" / "checkpoint-latest.pth"
    with pytest.raises(ValueError, match=r"other\.pbtxt differs from the classes of the checkpoint"):
        parsed(data, "--eval", "--finetune", str(file), "--label_map", str(other))


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--data_path", "{other}"], "there is no ava_train_v2.2.csv or train.csv in --data_path"),
        (["--person_boxes", "{other}/boxes.csv"], "boxes.csv: there is no such file"),
        (["--finetune", "{other}/weights.pth"], "weights.pth: there is no such file"),
        (["--eval", "--data_path", "{other}"], "there is no ava_val_v2.2.csv or val.csv in --data_path"),
        (["--label_map", "{other}/faulty.pbtxt"], "faulty.pbtxt, line 1: id 3 has no name"),
    ],
)
def test_missing_files_are_named_before_torch_is_imported(data, tmp_path, words, fragment):
    (tmp_path / "label_map.pbtxt").write_text((data / "label_map.pbtxt").read_text())
    (tmp_path / "faulty.pbtxt").write_text("item { id: 3 }\n")
    words = ["--data_path", str(data), *(word.format(other=tmp_path) for word in words)]
    without_torch = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv += {}; runpy.run_path({!r}, run_name='__main__')"
    )
    code = without_torch.format(words, TASK.script)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert fragment in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr


def test_controls_are_judged_as_the_test_was(folder, capsys):
    assert controls([str(folder / "straight")]) == 0
    found = json.loads((folder / "straight" / "controls.json").read_text())
    assert found["detector"]["all"] == pytest.approx(results_of(folder, "straight")["map"])
    assert list(found) == ["detector", "whole picture", "frames shuffled", "labels exchanged", "random scores"]
    assert len({tuple(row.values()) for row in found.values()}) == 5
    assert re.search(r"frames shuffled +\d+\.\d +\d+\.\d +\d+\.\d", capsys.readouterr().out)
    assert controls([str(folder)]) == 1
