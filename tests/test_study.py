"""The studies: their runs, their models, one real run on synthetic videos, and the arithmetic of their tables."""

import json

import pytest
import torch
from run_standins import replace_runs
from torch import nn
from torchvision.models import video
from video_files import numbered_frames, write_video

import run_class_finetuning
import run_pretrain_imagenet
from benchmarks import study, train_peer
from benchmarks.study_models import OURS, PEERS, STATIC, build_peer, narrow, parameters
from benchmarks.study_table import Variant, discordant, write_study
from engines.configuration import parse_arguments


@pytest.fixture
def splits(tmp_path):
    """Three splits, each a training list of three videos and a test list of two."""
    folders = [tmp_path / f"split{i}" for i in range(3)]
    for folder in folders:
        folder.mkdir()
        (folder / "train.csv").write_text("a.mp4 0\nb.mp4 1\nc.mp4 2\n")
        (folder / "test.csv").write_text("a.mp4 0\nb.mp4 1\n")
    return folders


@pytest.fixture
def stand_in(monkeypatch):
    """Instead of training: runs whose name starts with VideoMambaPro are right, the others on the first video only."""

    def results_of(_, folder):
        second = 1 if "/VideoMambaPro_dt" in str(folder) else 0
        rows = [{"line": 1, "label": 0, "prediction": 0}, {"line": 2, "label": 1, "prediction": second}]
        return {"top1": 50, "predictions": rows}

    return replace_runs(monkeypatch, results_of)


def words_for(splits, name, *more):
    return [name, "--splits", *map(str, splits), "--output", str(splits[0].parent / name), *more]


def test_every_method_runs_on_every_split_from_scratch_and_from_images(splits, stand_in):
    assert study.main(words_for(splits, "method", "--image_path", "i", "--steps", "7", "--device", "cpu")) == 0
    pretrained = [command for command in stand_in if study.PRETRAIN in command]
    trained = [command for command in stand_in if study.FINETUNE in command]
    assert len(pretrained) == 6 * 2 and len(trained) == 6 * 2 * 2 * 3
    parsers = {study.PRETRAIN: run_pretrain_imagenet, study.FINETUNE: run_class_finetuning}
    methods = set()
    for command in [*pretrained, *trained]:
        words = [word for word in command[2:] if word != "--no_auto_resume"]
        if "--finetune" in words:
            words[words.index("--finetune") + 1] = ""
        args = parse_arguments(parsers[command[1]].get_parser(), words, script=command[1])
        if command[1] == study.FINETUNE:
            assert args.steps == 7
            methods.add((args.bimamba_type, args.elemental_residual, args.masked_backward, args.dt_init))
    assert len(methods) == 12
    study.main(words_for(splits, "method", "--image_path", "i", "--steps", "7", "--device", "cpu"))
    assert len(stand_in) == 12 + 72, "what has finished is not run again"
    words = ("--image_path", "i", "--steps", "7", "--device", "cpu", "--image_epochs", "3")
    study.main(words_for(splits, "method", *words))
    assert len(stand_in) == 84 + 12 + 36, "other backbones, and what starts from them"


def test_the_table_of_the_method(splits, stand_in):
    study.main(words_for(splits, "method"))
    text = (splits[0].parent / "method" / "study.md").read_text()
    assert "| VideoMambaPro, dt_init mamba, from scratch | 100.0 | 61.0 to 100.0 | 6 | 1 |  |" in text
    # right on 3 of 6, 3 discordant videos: exact p = 2 / 2^3
    assert "| neither, dt_init mamba, from scratch | 50.0 | 18.8 to 81.2 | 6 | 1 | 0.25 |" in text


def test_each_peer_takes_the_rate_with_the_best_validation(splits, monkeypatch):
    (splits[0] / "val.csv").write_text("c.mp4 2\n")

    def results_of(command, folder):
        rate = float(command[command.index("--lr") + 1])
        if "rates" in folder.parts:
            assert command[command.index("--test_list") + 1] == str(splits[0] / "val.csv")
            return {"top1": {0.1: 60, 0.01: 60 if OURS in command else 50, 0.001: 50}[rate]}
        return {"rate": rate, "predictions": [{"line": 1, "label": 0, "prediction": 0}]}

    commands = replace_runs(monkeypatch, results_of)
    tuning = ["--rates", "0.1", "0.01", "0.001", "--tuning", str(splits[0]), "--variants", OURS, STATIC]
    assert study.main(words_for(splits, "peers", *tuning)) == 0
    finals = [command for command in commands if "--test_list" not in command]
    assert len(commands) == 2 * 3 + 2 * 3 and len(finals) == 6
    chosen = {(c[c.index("--peer") + 1], c[c.index("--lr") + 1]) for c in finals}
    assert chosen == {(OURS, "0.01"), (STATIC, "0.1")}, "of equal rates the least"
    assert "| rate |" in (splits[0].parent / "peers" / "study.md").read_text()
    for command in commands:
        train_peer.parse_arguments(command[3:])


@pytest.mark.parametrize("words", [["--rates", "1", "2"], ["--tuning", "lists"]])
def test_several_rates_and_lists_to_choose_on_need_each_other(splits, words, capsys):
    with pytest.raises(SystemExit):
        study.main(words_for(splits, "peers", *words))
    assert "--tuning chooses one of several --rates" in capsys.readouterr().err


def test_unknown_variants_are_refused(splits, capsys):
    with pytest.raises(SystemExit):
        study.main(words_for(splits, "peers", "--variants", "r3d"))
    assert "r3d_18, widths / 8" in capsys.readouterr().err


def outcome(name, bits, labels=(0, 0, 0, 1, 1, 1)):
    right = {(0, line): bool(bit) for line, bit in enumerate(bits)}
    return Variant(name, {(0, line): label for line, label in enumerate(labels)}, {0: right}, {})


def test_discordant_videos_and_classes_that_need_motion(tmp_path):
    still, moving = outcome("still", (1, 1, 0, 0, 0, 0)), outcome("moving", (1, 0, 0, 1, 1, 1))
    assert discordant(still, moving) == (1, 3)
    assert (discordant(still, moving, 0), discordant(still, moving, 1)) == ((1, 0), (0, 3))
    pairs = [("still", "moving")]
    text = write_study(tmp_path / "s.md", "peers", [moving, still], "command", pairs=pairs, names=["sit", "wave"])
    rows = [line for line in text.splitlines() if line.startswith(("| sit |", "| wave |"))]
    assert rows == ["| wave | 3 | 0.0 | 100.0 | +100.0 | 0.5 |", "| sit | 3 | 66.7 | 33.3 | -33.3 | 1 |"]


def test_videos_and_seeds_of_one_variant_alone_are_not_compared(tmp_path):
    still, moving = outcome("still", (1, 1, 0, 0, 0, 0)), outcome("moving", (1, 0, 0, 1, 1, 1))
    del moving.right[0][0, 5]
    text = write_study(tmp_path / "s.md", "peers", [still, moving], "command", pairs=[("still", "moving")])
    assert "| 1 | 2 | 0.0 | 100.0 | +100.0 | 1 |" in text
    moving.right[1] = moving.right.pop(0)
    text = write_study(tmp_path / "s.md", "peers", [still, moving], "command", pairs=[("still", "moving")])
    assert "| moving | 60.0 | 23.1 to 88.2 | 5 | 1 |  |" in text and "They have no seed in common." in text


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_every_peer_classifies_clips_and_learns(name):
    if "VideoMAE" in name:
        pytest.importorskip("transformers")
    model = build_peer(name, 5, 8, 96).train()
    clips = torch.randn(2, 3, 8, 96, 96)
    logits = model(clips)
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    order = torch.tensor([3, 1, 7, 0, 6, 2, 5, 4])
    with torch.no_grad():
        model.eval()
        there, back, other = (model(some) for some in (clips, clips[:, :, order], torch.randn_like(clips)))
    change = (there - back).norm() / (there - other).norm()
    assert (change < 1e-3) == ("single frames" in name), "a model of single frames alone does not see the order"


def test_narrow_divides_all_widths_but_pixels_and_classes():
    model = narrow(video.r3d_18, 4, 7)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv3d)]
    assert (convolutions[0].in_channels, convolutions[0].out_channels) == (3, 16)
    assert (model.fc.in_features, model.fc.out_features) == (128, 7)
    assert parameters(model) == pytest.approx(parameters(video.r3d_18(num_classes=7)) / 16, rel=0.02)


def test_a_peer_trains_on_videos_and_writes_what_the_table_reads(tmp_path):
    for i in range(3):
        write_video(tmp_path / f"v{i}.mp4", numbered_frames(8, 32, 48))
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("v0.mp4 0\nv1.mp4 1\nv2.mp4 2\n")
    output = tmp_path / "run"
    words = ["--peer", STATIC, "--seconds", "0.3", "--data_set", "custom", "--data_path", str(tmp_path)]
    words += ["--data_root", str(tmp_path), "--output_dir", str(output), "--batch_size", "3", "--num_workers", "0"]
    words += ["--input_size", "32", "--short_side_size", "32", "--num_frames", "2", "--read_timeout", "0"]
    assert train_peer.main(words) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["videos"] == len(results["predictions"]) == 3 and results["clips"] >= 3
    assert results["training_seconds"] >= 0.3 and results["memory_gib"] > 0 and OURS in PEERS
    assert {row["line"] for row in results["predictions"]} == {1, 2, 3}
