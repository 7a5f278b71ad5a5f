"""The benchmark of masked pretraining: which runs it starts, with which lists and epochs, and its table."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from run_standins import replace_runs

import run_class_finetuning
from benchmarks import masked_effect
from datasets.annotations import read_list
from engines.probe_settings import settle_probe

SECONDS = {"scratch": 10.0, "images": 5.0, "masked": 25.0}
TOP1 = {"scratch": 20, "scratch_long": 30, "from_images": 40, "from_masked": 50, "images": 90, "from_masked_tube": 45}
TOP1 |= {"linear_masked": 60, "attentive_masked": 70, "linear_shuffled": 12}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Instead of drawing and training: lists of twelve videos a motion, results by arm; the commands that were run."""

    def make(folder, _settings):
        for name, count in (("train", 96), ("val", 8), ("test", 16)):
            (folder / "videos").mkdir(parents=True, exist_ok=True)
            rows = [f"videos/{name}/{i}.mp4 {i % 8}\n" for i in range(count)]
            (folder / "videos" / f"{name}.csv").write_text("".join(rows))

    def results_of(command, folder):
        epochs = int(command[command.index("--epochs") + 1])
        seconds = SECONDS.get(folder.name, 1.0)
        (folder / "log.txt").write_text("".join(f'{{"seconds": {seconds / epochs}}}\n' for _ in range(epochs)))
        seed = int(command[command.index("--seed") + 1])
        if folder.name.startswith("masked"):
            return {"figures": {"knn": 33.0, "knn_patches": 44.0}}
        return {"top1": TOP1.get(folder.name, 15) + seed}

    monkeypatch.setattr(masked_effect, "make_data_set", make)
    return replace_runs(monkeypatch, results_of)


def run(tmp_path, *words):
    words = ["--output", str(tmp_path), "--per_class", "3", "--epochs", "20", "--jobs", "1", *words]
    return masked_effect.main(words)


def value_of(command, flag):
    return command[command.index(flag) + 1]


def untrained_weights(folder):
    return torch.load(folder / "untrained" / "checkpoint-latest.pth", weights_only=True)["model"]


def by_name(commands):
    return {"/".join(value_of(command, "--output_dir").split("/")[-2:]): command for command in commands}


def test_every_start_is_fine_tuned_on_the_same_few_videos(tmp_path, commands):
    assert run(tmp_path, "--seeds", "0", "1", "--clip_grad", "1") == 0
    runs = by_name(commands)
    assert len(runs) == len(commands) == 2 * (6 + 10) and all(
        value_of(command, "--clip_grad") == "1" for command in commands
    )
    for seed in ("seed_0", "seed_1"):
        tuned = [runs[f"{seed}/{arm}"] for arm in masked_effect.ARMS]
        assert len({value_of(command, "--train_list") for command in tuned}) == 1
        assert len({value_of(command, "--test_list") for command in tuned}) == 1
        few = read_list(value_of(tuned[0], "--train_list"))[0]
        assert Counter(record.target for record in few) == dict.fromkeys(range(8), 3)
        weights = [value_of(c, "--finetune").split("/")[-2] if "--finetune" in c else "" for c in tuned]
        assert weights == ["", "", "images", "masked"]
        masked = runs[f"{seed}/masked"]
        assert value_of(masked, "--teacher").split("/")[-3:] == [seed, "images", "checkpoint-latest.pth"]
        unlabelled = Path(value_of(masked, "--train_list")).read_text().splitlines()
        assert len(unlabelled) == 96 and all(line.endswith(".mp4") for line in unlabelled), "no labels"
        for kind in ("linear", "attentive"):
            probes = {name: runs[f"{seed}/{kind}_{name}"] for name in [*masked_effect.PROBED, masked_effect.CONTROL]}
            assert {value_of(command, "--probe") for command in probes.values()} == {kind}
            weights = [value_of(command, "--finetune").split("/")[-2] for command in probes.values()]
            assert weights == ["untrained", "scratch", "images", "masked", "masked"]
            lists = [value_of(command, "--train_list") for command in probes.values()]
            assert set(lists[:-1]) == {value_of(tuned[0], "--train_list")} and lists[-1].endswith("shuffled.csv")
            settle_probe(run_class_finetuning.get_parser().parse_args(probes["masked"][2:]))  # the script takes them
        shuffled = read_list(lists[-1])[0]
        assert [one.path for one in shuffled] == [one.path for one in few]
        assert Counter(one.target for one in shuffled) == dict.fromkeys(range(8), 3)
        assert [one.target for one in shuffled] != [one.target for one in few]
    drawn = [(tmp_path / seed / "train.csv").read_text() for seed in ("seed_0", "seed_1")]
    assert drawn[0] != drawn[1]


def test_the_long_run_has_the_epochs_of_all_seconds(tmp_path, commands):
    run(tmp_path, "--seeds", "0")
    assert value_of(by_name(commands)["seed_0/scratch"], "--epochs") == "20"
    assert value_of(by_name(commands)["seed_0/scratch_long"], "--epochs") == "80"  # 20 x (10 + 5 + 25) / 10
    run(tmp_path, "--seeds", "0", "--long_epochs", "50")
    assert value_of(commands[-1], "--epochs") == "50" and "scratch_long" in value_of(commands[-1], "--output_dir")


def test_untrained_weights_are_those_of_the_seed(tmp_path, commands):
    run(tmp_path, "--seeds", "0", "1")
    first, second = (untrained_weights(tmp_path / f"seed_{seed}") for seed in (0, 1))
    name = "patch_embed.proj.weight"
    assert first.keys() == second.keys() and not torch.equal(first[name], second[name])
    run(tmp_path, "--seeds", "0")
    again = untrained_weights(tmp_path / "seed_0")
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_the_table_has_mean_and_spread_and_nothing_is_run_twice(tmp_path, commands, capsys):
    words = ("--seeds", "0", "1", "--compare_masks", "tube")
    run(tmp_path, *words)
    first = len(commands)
    run(tmp_path, *words)
    assert len(commands) == first
    text = (tmp_path / "masked_effect.md").read_text()
    assert "| from masked pretraining with this teacher | 50.5 +- 0.7 | 50.0, 51.0 | 20 | 31 |" in text
    assert "| from scratch, with the seconds of teacher and pretraining | 30.5 +- 0.7 | 30.0, 31.0 | 80 | 1 |" in text
    assert "| masked pretraining with this teacher | 60.5 +- 0.7 | 60.0, 61.0 | 70.5 +- 0.7 | 70.0, 71.0 |" in text
    assert "shuffled labels | 12.5 +- 0.7 | 12.0, 13.0 | 15.5" in text
    assert "| tube | 33.0 +- 0.0 | 33.0, 33.0 | 44.0 +- 0.0 | 44.0, 44.0 | 45.5 +- 0.7 | 45.0, 46.0 |" in text
    assert "chance is 12.5" in text and "digits: 90.0, 91.0" in text


def test_a_failed_run_ends_what_needs_it_and_is_named(tmp_path, commands, monkeypatch, capsys):
    def results_of(_command, folder):
        (folder / "log.txt").write_text('{"seconds": 1}\n')
        return None if folder.name == "images" else {"top1": 1}

    replace_runs(monkeypatch, results_of)
    assert run(tmp_path, "--seeds", "0") == 1
    assert not (tmp_path / "seed_0" / "masked").exists()
    assert "failed: seed_0/images" in capsys.readouterr().err
    assert json.loads((tmp_path / "seed_0" / "scratch" / "results.json").read_text()) == {"top1": 1}
