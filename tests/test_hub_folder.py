"""Folders as on the Hugging Face hub: written, read by the hub's and timm's own loaders, and loaded again, equal."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard
from inference_files import CLASSES, OBJECTIVES, save_checkpoint, save_checkpoint_of, write_moving_video

import run_inference
from inference import load_predictor
from models import VideoMambaPro
from models.checkpoint import CheckpointError
from models.checkpoint_file import read_checkpoint_file
from models.detection import ActionDetector
from tools.checkpoint import main
from tools.checkpoint_file import inspect
from tools.hub_folder import write_hub_folder

NAMES = [f"kind {label}" for label in range(CLASSES)]
RESULTS = {
    "figures": {"acc1": 100 * 2 / 3, "acc5": 99.00000000000001, "loss": 0.3},
    "weights": "somewhere/checkpoint.pth",
    "list": {"file": "somewhere/clips_test.csv"},
    "videos": 320,
    "views": 6,
    "classes": CLASSES,
}

CARD = ("results", "label_names", "recipe", "name", "data", "license")  # flags of the card


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run: a checkpoint with names, and the results of its test."""
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "checkpoint.pth", class_names=NAMES, data_path="/home/somebody/lists")
    (folder / "results.json").write_text(json.dumps(RESULTS))
    return folder


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    target = tmp_path_factory.mktemp("hub") / "model"
    assert main(["hub", str(run / "checkpoint.pth"), str(target), "--name", "Small", "--license", "mit"]) == 0
    return target


def clips(frames=4):
    return torch.randn(2, 3, frames, 32, 32, generator=torch.Generator().manual_seed(1))


def equal(model, other):
    states = model.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_round_trip_is_equal_to_the_bit(run, folder, tmp_path):
    original = load_predictor(run / "checkpoint.pth", device="cpu").model
    model = VideoMambaPro.from_pretrained(folder)
    assert equal(model, original) and not model.training
    assert model.config.values() == original.config.values()
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    described = [
        {name: value for name, value in read_checkpoint_file(one).items() if not isinstance(value, torch.Tensor)}
        for one in (folder, tmp_path / "again")
    ]
    assert described[0] == described[1] and described[0]["args"]["class_names"] == NAMES
    assert equal(VideoMambaPro.from_pretrained(str(tmp_path / "again")), original)


def test_the_card_is_read_by_the_hubs_own_loader_and_repeats_the_results(folder):
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.pipeline_tag) == ("mit", "video-classification")
    figures = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert figures == {
        "top-1 accuracy, %": RESULTS["figures"]["acc1"],
        "top-5 accuracy, %": RESULTS["figures"]["acc5"],
    }
    assert {result.dataset_name for result in card.data.eval_results} == {"clips_test"}
    assert card.data.model_name == "Small"
    text = card.text
    for fragment in [
        *NAMES,
        "| sampling | dense |",
        "| sampling_rate | 2 |",
        "0.485",
        "0.229",
        "| views per video | 6 |",
    ]:
        assert fragment in text
    assert str(RESULTS["figures"]["acc1"]) in text


def test_nothing_of_the_machine_is_told(run, folder, tmp_path):
    VideoMambaPro.from_pretrained(run / "checkpoint.pth").save_pretrained(tmp_path)
    for one in (folder, tmp_path):
        assert b"somebody" not in b"".join(file.read_bytes() for file in one.iterdir())


def test_a_new_head_has_no_names(folder):
    model = VideoMambaPro.from_pretrained(folder)
    assert model.label_names() == NAMES
    model.reset_classifier(CLASSES)
    assert model.label_names() == [] and model.told_flags()["sampling_rate"] == 2


def test_timm_loads_it(folder):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert equal(model, VideoMambaPro.from_pretrained(folder))
    assert model.pretrained_cfg["label_names"] == NAMES
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)


def test_the_command_that_tests_a_folder_samples_as_its_run(folder, tmp_path):
    model = VideoMambaPro.from_pretrained(folder)
    model.run_flags = {**model.run_flags, "sampling": "dense", "sampling_rate": 2}
    model.save_pretrained(tmp_path)
    command = inspect(tmp_path).partition("to test it")[2]
    assert "--sampling dense" in command and "--sampling_rate 2" in command
    assert command.endswith("--data_path LISTS --data_root DIR"), "a folder tells no paths"


def test_the_folder_stands_for_a_checkpoint_everywhere(run, folder, tmp_path, capsys):
    video = str(write_moving_video(tmp_path / "video.mp4"))
    wanted, got = (load_predictor(path, device="cpu").predict(video) for path in (run / "checkpoint.pth", folder))
    assert got.label_names == tuple(NAMES) and got.views == wanted.views == 6
    torch.testing.assert_close(got.probabilities, wanted.probabilities, rtol=0, atol=0)
    assert run_inference.parse_arguments(["--checkpoint", str(folder), video]).checkpoint == str(folder)
    assert main(["inspect", str(folder)]) == 0
    assert "videomambapro_nano" in capsys.readouterr().out


def test_weights_without_our_metadata_are_read_by_config_json(folder, tmp_path):
    model = timm.create_model("videomambapro_nano", img_size=32, num_frames=4, num_classes=3, scan_input="raw").eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = VideoMambaPro.from_pretrained(tmp_path)
    assert loaded.config.scan_input == "raw" and equal(loaded, model)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="config.json holds no JSON object"):
        read_checkpoint_file(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json is not JSON"):
        read_checkpoint_file(tmp_path)


def test_a_model_is_changed_while_it_is_loaded(folder):
    assert VideoMambaPro.from_pretrained(folder, img_size=48).folder_config()["reading"]["short_side"] == 48
    model = VideoMambaPro.from_pretrained(folder, num_classes=3, num_frames=8)
    assert model(clips(8)).shape == (2, 3) and model.label_names() == []
    torch.testing.assert_close(
        model.forward_features(clips(8)), VideoMambaPro.from_pretrained(folder).forward_features(clips(8))
    )


def test_a_model_of_no_registered_size(tmp_path):
    torch.manual_seed(0)
    model = VideoMambaPro(embed_dim=48, depth=2, img_size=(32, 48), num_frames=2, num_classes=3, bimamba_type="v2")
    model.save_pretrained(tmp_path)
    assert equal(VideoMambaPro.from_pretrained(tmp_path), model)
    assert equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), model)
    assert ModelCard.load(tmp_path / "README.md").data.eval_results is None


def test_the_upload_holds_the_three_files(folder, monkeypatch):
    sent = {}

    def upload(self, *, folder_path, **_):
        sent.update({file.name: file.read_bytes() for file in Path(folder_path).iterdir()})

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    VideoMambaPro.from_pretrained(folder).push_to_hub("owner/name")
    assert sent.keys() == {"config.json", "model.safetensors", "README.md"}
    assert sent["config.json"] == (folder / "config.json").read_bytes()


def test_a_repository_is_taken_from_the_cache_without_network(folder, tmp_path):
    """A cache as the hub's client lays it out."""
    commit = tmp_path / "models--owner--name" / "snapshots" / ("0" * 40)
    commit.mkdir(parents=True)
    (commit.parent.parent / "refs").mkdir()
    (commit.parent.parent / "refs" / "main").write_text("0" * 40)
    for file in folder.iterdir():
        (commit / file.name).symlink_to(file)
    model = VideoMambaPro.from_pretrained("owner/name", cache_dir=tmp_path, local_files_only=True)
    assert equal(model, VideoMambaPro.from_pretrained(folder))


def test_what_cannot_become_a_folder(run, folder, tmp_path, capsys):
    checkpoint = str(run / "checkpoint.pth")
    assert main(["hub", checkpoint, str(folder)]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="is not an empty folder"):
        write_hub_folder(Namespace(file=run / "checkpoint.pth", target=folder, **dict.fromkeys(CARD, "")))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert main(["hub", checkpoint, str(tmp_path / "new"), "--results", str(tmp_path / "none.json")]) == 1
    assert "none.json does not exist; the test of a run writes results.json" in capsys.readouterr().err
    (tmp_path / "other.json").write_text(json.dumps(RESULTS | {"classes": 3}))
    assert main(["hub", checkpoint, str(tmp_path / "new"), "--results", str(tmp_path / "other.json")]) == 1
    assert "has 3 classes, the checkpoint 7" in capsys.readouterr().err
    detector = ActionDetector(VideoMambaPro(img_size=32, num_frames=4, num_classes=0, embed_dim=96, depth=6), 3)
    torch.save({"model": detector.state_dict(), "model_config": detector.config.values()}, tmp_path / "detector.pth")
    assert main(["hub", str(tmp_path / "detector.pth"), str(tmp_path / "new")]) == 1
    assert "share its checkpoint (tools.checkpoint convert)" in capsys.readouterr().err
    (tmp_path / "task.json").write_text(json.dumps(RESULTS | {"task": "multilabel"}))
    assert main(["hub", checkpoint, str(tmp_path / "new"), "--results", str(tmp_path / "task.json")]) == 1
    assert "tests --task multilabel, the checkpoint is of --task classification" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="model.safetensors: there is no such file"):
        VideoMambaPro.from_pretrained(tmp_path / "empty")


FIGURES = {
    "multilabel": {"mean_ap": 0.467, "micro_f1": 0.4, "macro_f1": 1 / 3, "loss": 0.2},
    "regression": {"error": 0.5, "mae_speed": 0.123456789, "r2_speed": -0.25},
}
METRICS = {
    "multilabel": {"mAP": 0.467, "F1 over all decisions": 0.4, "F1, mean of the classes": 1 / 3},
    "regression": {
        "squared error / variance of the training targets": 0.5,
        "MAE of speed": 0.123456789,
        "R\u00b2 of speed": -0.25,
    },
}
TOLD = {
    "multilabel": ["highest score", "a score of\n0.37 (chosen on the validation list)"],
    "regression": [
        f"| kind 6 | {OBJECTIVES['regression']['target_mean'][6]} | 7.0 |",
        "`output * scale + mean`",
        "## Targets",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("task", OBJECTIVES)
def test_several_labels_and_numbers_survive_the_round_trip_to_the_bit(task, tmp_path):
    """Threshold, merging of views, mean and scale, names; the card repeats the figures of the test."""
    flags = {"view_merge": "max"} if task == "multilabel" else {}
    file = save_checkpoint_of(task, tmp_path / "checkpoint.pth", class_names=NAMES, **flags)
    results = {"figures": FIGURES[task], "task": task, "weights": str(file), **flags}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert main(["hub", str(file), str(tmp_path / "hub")]) == 0
    VideoMambaPro.from_pretrained(tmp_path / "hub").save_pretrained(tmp_path / "again")
    VideoMambaPro.from_pretrained(file).save_pretrained(tmp_path / "direct")
    video = str(write_moving_video(tmp_path / "video.mp4"))
    wanted = load_predictor(file, device="cpu").predict(video)
    for folder in ("hub", "again", "direct"):
        got = load_predictor(tmp_path / folder, device="cpu").predict(video)
        assert str(got) == str(wanted) and NAMES[3] in str(got)
        values = ("values",) if task == "regression" else ("probabilities", "threshold")
        for name in values:
            torch.testing.assert_close(getattr(got, name), getattr(wanted, name), rtol=0, atol=0)
    timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True)
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert {result.metric_name: result.metric_value for result in card.data.eval_results} == METRICS[task]
    assert all(words in card.text for words in TOLD[task])


def test_a_threshold_that_was_never_chosen_stays_unknown(tmp_path):
    file = save_checkpoint_of("multilabel", tmp_path / "checkpoint.pth")
    content = torch.load(file, weights_only=True)
    content["model"]["decision_threshold"].fill_(torch.nan)
    torch.save(content, file)
    assert main(["hub", str(file), str(tmp_path / "hub")]) == 0
    assert load_predictor(tmp_path / "hub", device="cpu").objective.decision_threshold.isnan()
    assert "no threshold was chosen" in (tmp_path / "hub" / "README.md").read_text()


def test_a_new_head_is_not_taken_for_the_old_one(tmp_path):
    """A regression's mean and scale, and a threshold, belong to the outputs that they were computed for."""
    file = save_checkpoint_of("regression", tmp_path / "checkpoint.pth", class_names=NAMES)
    changed = VideoMambaPro.from_pretrained(file, num_classes=3)
    reset = VideoMambaPro.from_pretrained(file)
    reset.reset_classifier(CLASSES)
    for name, model in {"changed": changed, "reset": reset}.items():
        model.save_pretrained(tmp_path / name)
        predictor = load_predictor(tmp_path / name, device="cpu")
        assert predictor.task == "classification" and predictor.label_names[0] == "class 0"


def test_results_of_other_weights_are_left_out(run, tmp_path, capsys):
    (run / "other.pth").write_bytes((run / "checkpoint.pth").read_bytes())
    assert main(["hub", str(run / "other.pth"), str(tmp_path / "new")]) == 0
    assert "results from nowhere (--results)" in capsys.readouterr().out
    assert ModelCard.load(tmp_path / "new" / "README.md").data.eval_results is None
