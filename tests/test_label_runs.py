"""Runs of the tasks multilabel and regression by the script: results, checkpoint, test, prediction, report, export."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, r2_score

import run_class_finetuning
import run_inference
from datasets.annotations import read_list
from datasets.preparation.digit_labels import write_set
from engines.configuration import parse_arguments
from engines.settings import plain_flags
from inference import load_predictor
from models.checkpoint_file import read_checkpoint_file
from reports import several_labels
from tools.checkpoint_file import convert, inspect
from tools.export_file import _metadata

ROOT = Path(__file__).parent.parent
BEST = "checkpoint-best.pth"
SMALL = [
    *("--model", "videomambapro_nano", "--device", "cpu", "--num_workers", "0", "--read_timeout", "0"),
    *("--input_size", "32", "--short_side_size", "32", "--num_frames", "4", "--sampling_rate", "2"),
    *("--batch_size", "8", "--num_sample", "1", "--aa", "none", "--reprob", "0", "--epochs", "2"),
    *("--warmup_epochs", "0", "--lr", "1e-2", "--test_num_segment", "2", "--test_num_crop", "1"),
]


def run(*words):
    """Run the script as `python run_class_finetuning.py` does, in this process."""
    script = run_class_finetuning
    script.main(parse_arguments(script.get_parser(), list(words), script=script.SCRIPT))


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def scores_of(folder):
    with np.load(folder / "scores.npz") as scores:
        return dict(scores)


def trained(tmp_path_factory, name, task, *words):
    folder = tmp_path_factory.mktemp(name)
    write_set(name, folder, {"seed": 0, "num_frames": 8, "size": 32, "train": 16, "val": 8, "test": 8}, workers=1)
    lists = ["--data_path", str(folder), "--data_root", str(folder)]
    run(*SMALL, *lists, "--task", task, *words, "--output_dir", str(folder / "run"))
    return folder, lists


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Folder and list flags of a run with several labels."""
    return trained(tmp_path_factory, "motions", "multilabel", "--view_merge", "max", "--model_ema")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Folder and list flags of a run of a regression."""
    return trained(tmp_path_factory, "speed", "regression", "--regression_loss", "huber")


def test_a_finished_run_stays_as_it_is_under_flags_it_was_not_trained_with(numbers, capsys, caplog):
    folder, lists = numbers
    words = [*SMALL, *lists, "--task", "regression", "--regression_loss", "huber", "--output_dir", str(folder / "run")]
    files = [folder / "run" / name for name in ("args.json", "results.json", "log.txt")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(SystemExit):
        run(*words, "--lr", "0.02", "--test_list", str(folder / "val.csv"))
    assert "nothing would be trained with --lr 0.01 -> 0.02; begin a new run" in capsys.readouterr().err
    assert "val.csv is tested, and also chooses checkpoint-best.pth" in caplog.text
    assert [file.read_bytes() for file in files] == before


def test_the_map_is_scikit_learns_on_the_stored_scores(several):
    folder, _ = several
    results, scores = results_of(folder / "run"), scores_of(folder / "run")
    records, _ = read_list(folder / "test.csv", task="multilabel")
    labels = np.array([[label in record.target for label in range(results["num_classes"])] for record in records])
    assert (scores["labels"] == labels).all() and scores["line"].tolist() == [record.line for record in records]
    found = [average_precision_score(labels[:, k], scores["scores"][:, k]) for k in np.flatnonzero(labels.any(0))]
    assert results["mean_ap"] == pytest.approx(np.mean(found), abs=1e-9)
    assert results["task"] == "multilabel" and results["view_merge"] == "max"
    assert results["threshold_from"] == "validation"
    assert results["without_positives"] == np.flatnonzero(~labels.any(0)).tolist()


def test_the_figures_of_a_regression_are_those_of_the_stored_predictions(numbers):
    folder, _ = numbers
    (target,), scores = results_of(folder / "run")["targets"], scores_of(folder / "run")
    records, _ = read_list(folder / "test.csv", task="regression")
    assert scores["targets"][:, 0].tolist() == [record.target[0] for record in records]
    assert target["r2"] == pytest.approx(r2_score(scores["targets"], scores["predictions"]))
    training = [record.target[0] for record in read_list(folder / "train.csv", task="regression")[0]]
    assert (target["training_mean"], target["training_deviation"]) == (
        pytest.approx(np.mean(training)), pytest.approx(np.std(training)),
    )  # fmt: skip
    assert target["constant_mse"] == pytest.approx(((scores["targets"] - np.mean(training)) ** 2).mean())


def test_the_best_epoch_has_the_lowest_error(numbers):
    folder, _ = numbers
    epochs = [json.loads(line) for line in (folder / "run" / "log.txt").read_text().splitlines()]
    assert epochs[-1]["best_error"] == min(epoch["val_error"] for epoch in epochs)


@pytest.mark.usefixtures("several", "numbers", "no_report")  # the training runs, made first, do write reports
@pytest.mark.parametrize(("task", "suffix"), [("several", ".pth"), ("numbers", ".safetensors")])
def test_a_converted_checkpoint_tests_as_its_run_did(task, suffix, request, tmp_path):
    folder, lists = request.getfixturevalue(task)
    convert(folder / "run" / BEST, tmp_path / f"weights{suffix}")
    run(*SMALL, *lists, "--eval", "--finetune", str(tmp_path / f"weights{suffix}"), "--output_dir", str(tmp_path))
    again, before = results_of(tmp_path), results_of(folder / "run")
    assert again["figures"] == before["figures"] and again["task"] == before["task"]
    assert again["predictions"] == before["predictions"]


@pytest.mark.parametrize("task", ["several", "numbers"])
def test_a_prediction_is_that_of_the_test(task, request):
    folder, _ = request.getfixturevalue(task)
    predictor = load_predictor(folder / "run" / BEST, device="cpu", read_timeout=0)
    results, scores = results_of(folder / "run"), scores_of(folder / "run")
    for place, row in enumerate(results["predictions"][:3]):
        found = predictor.predict(folder / f"videos/test/{place:05}.mp4")
        if task == "numbers":
            assert found.values == pytest.approx(scores["predictions"][place], rel=1e-5, abs=1e-6)
        else:
            assert found.probabilities == pytest.approx(scores["scores"][place], abs=1e-5)
            assert found.predicted == [f"class {label}" for label in row["predicted"]]


def test_lines_of_json_name_targets_and_predicted_classes(several, numbers, capsys):
    for (folder, _), key in ((several, "predicted"), (numbers, "targets")):
        words = [str(folder / "videos/test/00000.mp4"), "--checkpoint", str(folder / "run" / BEST), "--json", "-"]
        assert run_inference.main([*words, "--device", "cpu"]) == 0
        assert key in json.loads(capsys.readouterr().out)


def test_a_list_of_any_task_names_the_videos_to_predict(numbers, capsys):
    folder, _ = numbers
    words = [str(folder / "test.csv"), "--data_root", str(folder), "--checkpoint", str(folder / "run" / BEST)]
    assert run_inference.main([*words, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("target 0") == 8


def with_threshold(checkpoint, threshold, path):
    """Write the checkpoint as if its validation had chosen this threshold."""
    content = torch.load(checkpoint, weights_only=True)
    for tensors in (content["model"], content["model_ema"]):
        tensors["decision_threshold"] = torch.tensor(threshold)
    torch.save(content, path)


def test_segments_of_several_labels_enter_at_the_threshold_of_the_checkpoint(several, tmp_path):
    folder, _ = several
    video = str(folder / "videos/test/00000.mp4")
    read = [
        "--device",
        "cpu",
        "--quick",
        "--window",
        "4",
        "--stride",
        "1",
        "--num_workers",
        "0",
        "--read_timeout",
        "0",
    ]

    def written(checkpoint, *words):
        out = tmp_path / "out.json"
        words = [
            video,
            "--checkpoint",
            str(checkpoint),
            *read,
            "--segments",
            str(out),
            "--segment_smooth",
            "0",
            *words,
        ]
        assert run_inference.main([*words, "--segment_shortest", "0"]) == 0
        return json.loads(out.read_text())

    results = {}
    for threshold in (0.05, 0.98):
        with_threshold(folder / "run" / BEST, threshold, tmp_path / "model.pth")
        results[threshold] = written(tmp_path / "model.pth")
        flags = ["--segment_enter", str(threshold), "--segment_leave", str(0.6 * threshold)]
        assert results[threshold] == written(folder / "run" / BEST, *flags)
    assert results[0.05] != results[0.98]


@pytest.mark.parametrize("words", [["--curve", "curve.png"], ["--segments", "out.csv"]])
def test_numbers_have_no_curve(numbers, capsys, words):
    folder, _ = numbers
    with pytest.raises(SystemExit):
        run_inference.main(["v.mp4", "--checkpoint", str(folder / "run" / BEST), *words, "--device", "cpu"])
    assert f"predicts numbers (--task regression), which have no {words[0]}" in capsys.readouterr().err


def test_another_task_than_the_checkpoints_is_refused(numbers):
    folder, lists = numbers
    words = [*SMALL, *lists, "--eval", "--finetune", str(folder / "run" / BEST), "--task", "multilabel"]
    with pytest.raises(ValueError, match="was trained for --task regression; omit the flag"):
        run(*words)


def test_the_report_shows_the_metrics_with_what_is_trivial_beside_them(several, numbers):
    page = (several[0] / "run" / "report.html").read_text()
    results = results_of(several[0] / "run")
    assert "mAP of a random ranking" in page and f"{100 * results['mean_ap']:.1f} %" in page
    assert "chosen by the validation" in page and page.count("data:image/webp") > 0
    page = (numbers[0] / "run" / "report.html").read_text()
    (target,) = results_of(numbers[0] / "run")["targets"]
    assert f"{target['constant_mae']:.4g} with the training mean for all" in page


def test_inspect_and_export_say_what_outputs_mean(several, numbers):
    assert "multilabel" in inspect(several[0] / "run" / BEST)
    about = _metadata(load_predictor(several[0] / "run" / BEST, device="cpu"))
    threshold = results_of(several[0] / "run")["threshold"]
    assert (about["task"], about["decision_threshold"], about["view_merge"]) == ("multilabel", threshold, "max")
    about = _metadata(load_predictor(numbers[0] / "run" / BEST, device="cpu"))
    (target,) = results_of(numbers[0] / "run")["targets"]
    assert about["target_mean"] == [target["training_mean"]]


@pytest.mark.usefixtures("no_report")
def test_a_classifier_is_fine_tuned_from_another_task(several, numbers, tmp_path):
    folder, lists = numbers
    words = ["--task", "regression", "--finetune", str(several[0] / "run" / BEST), "--epochs", "1"]
    run(*SMALL, *lists, *words, "--output_dir", str(tmp_path))
    saved = read_checkpoint_file(tmp_path / "checkpoint-latest.pth")["model"]
    assert "target_mean" in saved and "decision_threshold" not in saved


def flags_of(*words):
    return plain_flags(
        parse_arguments(run_class_finetuning.get_parser(), list(words), script="run_class_finetuning.py")
    )


def test_regression_switches_off_what_recipes_mix():
    flags = flags_of("--recipe", "k400/tiny_f8_res224", "--task", "regression", "--device", "cpu")
    assert (flags["mixup"], flags["cutmix"], flags["smoothing"]) == (0, 0, 0)
    assert flags_of("--task", "multilabel", "--device", "cpu")["mixup"] > 0


REFUSED = {
    "--mixup 0.8 does not fit --task regression": ["--task", "regression", "--mixup", "0.8"],
    "--cutmix 1.0 does not fit --task regression": ["--task", "regression", "--cutmix", "1"],
    "--smoothing 0.1 does not fit --task regression": ["--task", "regression", "--smoothing", "0.1"],
    "--class_weights balanced does not fit --task regression": [
        *("--task", "regression", "--class_weights", "balanced"),
    ],
    "--sampler balanced does not fit --task regression": ["--task", "regression", "--sampler", "balanced"],
    "--sampler balanced does not fit --task multilabel": ["--task", "multilabel", "--sampler", "balanced"],
    "--class_weights balanced does not fit --task multilabel": [
        *("--task", "multilabel", "--class_weights", "balanced"),
    ],
    "--regression_loss belongs to --task regression": ["--regression_loss", "l1"],
    "--view_merge belongs to --task multilabel": ["--view_merge", "max", "--task", "regression"],
    "--distill_loss does nothing without --teacher_scores": ["--distill_loss", "hard"],
    "--label_weight does nothing without a teacher": ["--label_weight", "0.5"],
    "--probe_lrs does nothing without --probe": ["--probe_lrs", "1e-3"],
    "--stem_weights does nothing without --stem": ["--stem_weights", "tests/conftest.py"],
    "--task regression contradicts --data_set K400": ["--task", "regression", "--data_set", "K400"],
}

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
from engines.early_check import check_command_line
for words in {cases}:
    try:
        check_command_line("run_class_finetuning.py", words)
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
    else:
        print("passed", file=sys.stderr)
"""


def test_flags_of_another_task_are_refused_before_torch_is_imported(numbers):
    _, lists = numbers
    cases = [*([*lists, *words] for words in REFUSED.values()), [*lists, "--task", "regression", "--mixup", "0"]]
    code = WITHOUT_TORCH.format(cases=cases)
    lines = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stderr.splitlines()
    assert len(lines) == 2 * len(REFUSED) + 1, lines
    for fragment, line, status in zip(REFUSED, lines[::2], lines[1::2], strict=False):
        assert fragment in line and status == "2"
    assert lines[-1] == "passed", "the control"


@pytest.mark.parametrize(
    "text, task, fragment",
    [
        ("v.mp4 0.5\n", "classification", "line 1: label should be a whole number"),
        ("v.mp4 1\nw.mp4 1;2\n", "classification", "--task multilabel"),
        ("v.mp4 0.5\n", "multilabel", "--task regression"),
        ("v.mp4 0.5\nw.mp4 1;2\n", "regression", "line 2: the label has 2 numbers, but that of line 1 has 1"),
        ("v.mp4\nw.mp4\n", "multilabel", "no clip has a label"),
        ("v.mp4 3\nw.mp4 3\n", "regression", "is 3 in all 2 clips"),
    ],
)
def test_a_list_of_another_task_ends_the_run_in_one_message(text, task, fragment, numbers, tmp_path, capsys):
    for name in ("v.mp4", "w.mp4"):
        (tmp_path / name).write_bytes((numbers[0] / "videos/test/00000.mp4").read_bytes())
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text(text)
    lists = ["--data_path", str(tmp_path), "--data_root", str(tmp_path), "--batch_size", "2"]
    with pytest.raises(SystemExit) as ended:
        run(*SMALL, *lists, "--task", task)
    assert ended.value.code == 2
    assert fragment in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "prior", "level"), [(1.0, 0.9, "good"), (0.91, 0.9, "bad"), (0.06, 0.05, "bad"), (0.2, 0.05, "weak")]
)
def test_a_ranking_is_judged_by_the_room_above_chance(found, prior, level):
    assert several_labels._judge({"mean_ap": found, "prior": prior}).level == level
