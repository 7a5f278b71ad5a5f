"""DDP and FSDP with the real model: losses, counts and checkpoints are those of one process."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from engine_standins import CLASSES, MemoryVideos, classify, make_args, run_processes, test_loader, training_loader
from torch import nn

from engines.checkpoint import read_checkpoint, resume_training
from engines.distributed import Context, close_distributed
from engines.evaluate import evaluate
from engines.optim import no_weight_decay_names
from engines.runner import fit, start_run
from engines.state import create_training_state
from engines.train import updates_per_epoch
from models.videomambapro import VideoMambaPro

# Of a loss, relative: what another order of float32 sums leaves after twenty updates.
LOSS_BOUND = 1e-4
EPOCHS = 10


def small_model():
    return VideoMambaPro(
        img_size=8,
        patch_size=4,
        depth=3,
        embed_dim=32,
        num_frames=2,
        num_classes=CLASSES,
        drop_path_rate=0.0,
        dt_init="mamba",
        use_checkpoint=True,
        checkpoint_num=1,
    )


def train(folder, batch_size, *flags, epochs=EPOCHS):
    """Train on 16 clips, 8 per step, without mixup and dropout, which each rank draws separately."""
    args = make_args(
        *("--output_dir", str(folder), "--epochs", str(epochs), "--warmup_epochs", "0", "--lr", "0.4"),
        *("--disable_eval_during_finetuning", "--layer_decay", "1", "--smoothing", "0"),
        *("--mixup", "0", "--cutmix", "0", "--clip_grad", "1", "--model_ema", "--model_ema_decay", "0.5", *flags),
        batch_size=batch_size,
    )
    context, args = start_run(args)
    shards = (context.rank, context.world_size)
    loader = training_loader(MemoryVideos(16), batch_size, *shards)
    steps = updates_per_epoch(loader, args.update_freq)
    state = create_training_state(classify(small_model(), args), args, context, steps_per_epoch=steps)
    resume_training(state, args, context)
    fit(state, loader, None, args, context)
    return state, context


def curve(folder):
    """The training loss of every epoch."""
    return np.array([json.loads(line)["train_loss"] for line in (folder / "log.txt").read_text().splitlines()])


def _rank(rank, folder, world_size):
    for parallel in ("ddp", "fsdp"):
        state, context = train(folder / parallel, 2, "--update_freq", "2", "--parallel", parallel)
        if parallel == "fsdp":
            marked = no_weight_decay_names(state.model)
            assert {"layers.0.mixer.A_log", "layers.0.mixer.D", "cls_token"} <= marked, "the marks survive the wrapper"
            local = sum(p.to_local().numel() for p in state.model.parameters())
            assert local < 0.7 * sum(p.numel() for p in small_model().parameters()), "a rank holds a part"
        videos = MemoryVideos(7, views=2, broken=[3])
        result = evaluate(state.objective, test_loader(videos, 2, rank, world_size), context, clips_per_forward=3)
        if rank == 0:
            (folder / f"{parallel}.pkl").write_bytes(pickle.dumps(result))
    close_distributed()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the runs "one" (one process), "ddp" and "fsdp" (two)."""
    folder = tmp_path_factory.mktemp("parallel")
    train(folder / "one", 8)
    run_processes(_rank, 2, folder, 2)
    return folder


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_have_the_loss_curve_of_one(runs, parallel):
    alone, shared = curve(runs / "one"), curve(runs / parallel)
    assert len(alone) == EPOCHS and alone[-1] < alone[0] / 2, "the run learns its clips"
    np.testing.assert_allclose(shared, alone, rtol=LOSS_BOUND)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_checkpoint_of_several_processes_is_one_of_a_single_process(runs, parallel):
    saved, alone = (read_checkpoint(runs / name / "checkpoint-latest.pth") for name in (parallel, "one"))
    for kind in ("model", "model_ema"):
        assert list(saved[kind]) == list(alone[kind]) == list(small_model().state_dict())
        for name, value in alone[kind].items():
            torch.testing.assert_close(saved[kind][name], value, rtol=1e-2, atol=1e-3, msg=f"{kind} {name}")
    for number, moments in alone["optimizer"]["state"].items():
        for name, value in moments.items():
            assert saved["optimizer"]["state"][number][name].shape == value.shape


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_evaluation_of_a_sharded_model_counts_every_video_once(runs, parallel):
    """Seven videos on two ranks, one unreadable: ranks have unequal numbers of batches."""
    shared = pickle.loads((runs / f"{parallel}.pkl").read_bytes())
    model = small_model()
    model.load_state_dict(read_checkpoint(runs / parallel / "checkpoint-latest.pth")["model"])
    alone = evaluate(classify(model), test_loader(MemoryVideos(7, views=2, broken=[3])), Context())
    assert shared.indices.tolist() == [0, 1, 2, 4, 5, 6]
    assert (shared.outputs.argmax(1) == alone.outputs.argmax(1)).all()
    assert shared.figures["acc1"] == alone.figures["acc1"]
    np.testing.assert_allclose(np.exp(shared.outputs), np.exp(alone.outputs), atol=1e-6)
    assert shared.excluded == alone.excluded


def test_a_compiled_run_has_the_same_curve_and_clean_names(runs, tmp_path, monkeypatch):
    """Use only the tracer, because PyTorch's code generator takes a minute."""
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled(module, backend="aot_eager"))
    state, _ = train(tmp_path, 8, "--compile")
    assert list(read_checkpoint(tmp_path / "checkpoint-latest.pth")["model"]) == list(small_model().state_dict())
    assert state.parallel._compiled_call_impl is not None
    np.testing.assert_allclose(curve(tmp_path), curve(runs / "one"), rtol=LOSS_BOUND)


def _resume_rank(rank, folder):
    """Resume from the checkpoint of two processes with three, sharded, and evaluate the result."""
    state, context = train(folder, 2, "--parallel", "fsdp", epochs=EPOCHS)
    result = evaluate(state.objective, test_loader(MemoryVideos(7), 1, rank, 3), context, clips_per_forward=3)
    if rank == 0:
        (folder / "result.pkl").write_bytes(pickle.dumps(result))
    close_distributed()


def test_a_run_goes_on_with_another_number_of_processes(runs, tmp_path):
    shutil.copy(runs / "ddp" / "checkpoint-latest.pth", tmp_path)
    run_processes(_resume_rank, 3, tmp_path)
    shared = pickle.loads((tmp_path / "result.pkl").read_bytes())
    model = small_model()
    saved = read_checkpoint(runs / "ddp" / "checkpoint-latest.pth")
    model.load_state_dict(saved["model"])
    alone = evaluate(classify(model), test_loader(MemoryVideos(7)), Context())
    assert (shared.outputs.argmax(1) == alone.outputs.argmax(1)).all() and shared.videos == 7
    np.testing.assert_allclose(np.exp(shared.outputs), np.exp(alone.outputs), atol=1e-6)
