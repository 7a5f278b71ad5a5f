"""Checkpoint files: written atomically, found when resuming, and refused with a reason if they do not match."""

import json
import logging
import os
import random

import numpy as np
import pytest
import torch
from engine_standins import TinyModel, classify, make_args

from common.files import atomic_write, write_json
from engines.checkpoint import find_checkpoints, load_weights, read_checkpoint, resume_training, save_checkpoint
from engines.distributed import Context
from engines.state import create_training_state, random_state, set_random_state


def make_state(output_dir, *flags, **values):
    args = make_args("--output_dir", str(output_dir), "--lr", "1.0", *flags, **values)
    return create_training_state(classify(TinyModel(), args), args, Context(), steps_per_epoch=4), args


def save(state, args, epoch, best=False, keep=False):
    state.epoch, state.step = epoch, epoch * state.steps_per_epoch
    save_checkpoint(state, args.output_dir, Context(), best=best, keep=keep)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"old": True})
    with pytest.raises(KeyboardInterrupt), atomic_write(path, "w") as file:
        file.write("{half of")
        file.flush()
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"old": True}
    assert os.listdir(tmp_path) == ["value.json"], "the temporary file is gone"


def test_a_crash_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    state, args = make_state(tmp_path)
    save(state, args, 1)

    def write_half(saved, file):
        file.write(b"half a checkpoint")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(OSError, match="disk full"):
        save(state, args, 2)
    assert read_checkpoint(tmp_path / "checkpoint-latest.pth")["epoch"] == 1
    assert os.listdir(tmp_path) == ["checkpoint-latest.pth"]


def test_which_files_are_written(tmp_path):
    state, args = make_state(tmp_path)
    save(state, args, 1)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-latest.pth"}
    save(state, args, 2, best=True, keep=True)
    names = {"checkpoint-latest.pth", "checkpoint-previous.pth", "checkpoint-best.pth", "checkpoint-1.pth"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert read_checkpoint(tmp_path / "checkpoint-previous.pth")["epoch"] == 1
    saved = read_checkpoint(tmp_path / "checkpoint-best.pth")
    assert saved["epoch"] == 2 and saved["args"]["lr"] == 1.0
    assert set(saved["model"]) == set(TinyModel().state_dict())


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state, args = make_state("")
    save(state, args, 1, best=True)
    assert os.listdir(tmp_path) == []


def test_random_states_survive_the_file(tmp_path):
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    np.random.randn()
    torch.save(random_state(), tmp_path / "random.pth")
    expected = random.random(), np.random.randn(3).tolist(), torch.randn(3).tolist()
    set_random_state(torch.load(tmp_path / "random.pth", weights_only=True))
    assert (random.random(), np.random.randn(3).tolist(), torch.randn(3).tolist()) == expected


def test_auto_resume_takes_the_latest(tmp_path):
    state, args = make_state(tmp_path)
    state.best_score = 41.5
    save(state, args, 2, best=True)
    save(state, args, 3)
    fresh, args = make_state(tmp_path)
    resume_training(fresh, args, Context())
    assert (fresh.epoch, fresh.step, fresh.best_score) == (3, 12, 41.5)
    assert torch.equal(fresh.model.head.weight, state.model.head.weight)


@pytest.mark.parametrize("damage", ["cut short", "empty", "text", "one bit"])
def test_a_broken_latest_falls_back_with_a_warning(tmp_path, caplog, damage):
    state, args = make_state(tmp_path)
    save(state, args, 1, keep=True)
    save(state, args, 2, best=True)
    save(state, args, 3)
    latest = tmp_path / "checkpoint-latest.pth"
    whole = latest.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(state.model.head.weight.detach().numpy().tobytes())] ^= 1
    latest.write_bytes(
        {"cut short": whole[: len(whole) // 2], "empty": b"", "text": b"not a checkpoint", "one bit": bytes(flipped)}[
            damage
        ]
    )
    os.utime(tmp_path / "checkpoint-0.pth", (1, 1))
    fresh, args = make_state(tmp_path)
    with caplog.at_level(logging.WARNING):
        resume_training(fresh, args, Context())
    assert fresh.epoch == 2
    assert "checkpoint-latest.pth" in caplog.text


def compressed_unknown(path):
    """Change an archive so that its entries claim an unknown compression method."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] = 99
            at = content.find(signature, at + 1)
    path.write_bytes(content)


@pytest.mark.parametrize("odd", ["folder", "dangling link", "link to itself", "unknown compression"])
def test_what_is_no_file_falls_back_with_a_sentence(tmp_path, caplog, odd):
    state, args = make_state(tmp_path)
    save(state, args, 2)
    save(state, args, 3)
    latest = tmp_path / "checkpoint-latest.pth"
    if odd == "unknown compression":
        compressed_unknown(latest)
    else:
        latest.unlink()
        latest.mkdir() if odd == "folder" else latest.symlink_to(latest if "itself" in odd else tmp_path / "absent")
    fresh, args = make_state(tmp_path)
    with caplog.at_level(logging.WARNING):
        resume_training(fresh, args, Context())
    assert fresh.epoch == 2
    assert f"{latest} cannot be read as a checkpoint and is renamed" in caplog.text
    save(fresh, args, 4)
    assert read_checkpoint(latest)["epoch"] == 4, "its name is free again"
    assert os.path.lexists(tmp_path / "checkpoint-latest.pth.broken")


@pytest.mark.parametrize("name", ["previous", "best", "3"])
def test_a_folder_under_another_name_does_not_end_the_run_hours_later(tmp_path, caplog, name):
    state, args = make_state(tmp_path)
    save(state, args, 2)
    (tmp_path / f"checkpoint-{name}.pth" / "full").mkdir(parents=True)
    (tmp_path / f"checkpoint-{name}.pth.broken").mkdir()
    (tmp_path / "checkpoint-8.pth").symlink_to(tmp_path / "absent")
    fresh, args = make_state(tmp_path)
    resume_training(fresh, args, Context())
    assert fresh.epoch == 2 and f"renamed to checkpoint-{name}.pth.broken-2" in caplog.text
    save(fresh, args, 4, best=True, keep=True)
    assert read_checkpoint(tmp_path / f"checkpoint-{name}.pth")["epoch"] == (2 if name == "previous" else 4)


def test_the_farthest_trained_is_the_next_older_whatever_the_clock_said(tmp_path):
    state, args = make_state(tmp_path)
    for epoch in (1, 2, 3, 4):
        save(state, args, epoch, keep=True)
    (tmp_path / "checkpoint-latest.pth").write_bytes(b"broken")
    (tmp_path / "checkpoint-previous.pth").unlink()
    for number in (0, 1, 2, 3):  # the clock was set back between them
        os.utime(tmp_path / f"checkpoint-{number}.pth", (1000 - number, 1000 - number))
    fresh, args = make_state(tmp_path)
    resume_training(fresh, args, Context())
    assert fresh.epoch == 4


def test_nothing_but_broken_checkpoints_stops_the_run(tmp_path):
    (tmp_path / "checkpoint-latest.pth").write_bytes(b"broken")
    state, args = make_state(tmp_path)
    with pytest.raises(ValueError, match="--no_auto_resume"):
        resume_training(state, args, Context())


def test_no_auto_resume_starts_afresh(tmp_path):
    state, args = make_state(tmp_path)
    save(state, args, 2)
    fresh, args = make_state(tmp_path, "--no_auto_resume")
    resume_training(fresh, args, Context())
    assert fresh.epoch == 0


def test_resume_flag_goes_before_auto_resume_and_must_exist(tmp_path):
    state, args = make_state(tmp_path)
    save(state, args, 1, keep=True)
    save(state, args, 2)
    fresh, args = make_state(tmp_path, "--resume", str(tmp_path / "checkpoint-0.pth"))
    resume_training(fresh, args, Context())
    assert fresh.epoch == 1
    args = args.changed(resume=str(tmp_path / "absent.pth"))
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        resume_training(fresh, args, Context())


def test_weights_alone_cannot_be_resumed(tmp_path):
    torch.save({"model": TinyModel().state_dict()}, tmp_path / "weights.pth")
    state, args = make_state(tmp_path, "--resume", str(tmp_path / "weights.pth"))
    with pytest.raises(ValueError, match=r"weights\.pth.*--finetune"):
        resume_training(state, args, Context())


def test_another_models_checkpoint_is_refused(tmp_path):
    args = make_args("--output_dir", str(tmp_path))
    other = create_training_state(classify(TinyModel(depth=2)), args, Context(), steps_per_epoch=4)
    save(other, args, 1)
    state, args = make_state(tmp_path)
    with pytest.raises(ValueError, match="another model"):
        resume_training(state, args, Context())
    with pytest.raises(ValueError, match="--model"):
        load_weights(classify(TinyModel()), tmp_path / "checkpoint-latest.pth")


def test_pickled_code_is_refused(tmp_path):
    torch.save({"model": TinyModel()}, tmp_path / "pickled.pth")
    with pytest.raises(ValueError, match=r"pickled\.pth"):
        read_checkpoint(tmp_path / "pickled.pth")


def test_find_checkpoints_without_a_folder(tmp_path):
    assert find_checkpoints("") == [] and find_checkpoints(str(tmp_path / "absent")) == []


def test_another_number_of_processes_leaves_the_random_states(tmp_path, caplog):
    state, args = make_state(tmp_path)
    state.random_states = [random_state(), random_state()]
    torch.manual_seed(11)
    with caplog.at_level(logging.WARNING):
        state.restore_random_states(Context())
    assert "2 process(es) and this run has 1" in caplog.text
    assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(11).get_state())
