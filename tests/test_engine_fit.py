"""The training loop: resuming, gradient accumulation, processes, EMA, logs, and stopping at non-finite values."""

import json
import logging

import pytest
import torch
from engine_standins import (
    CLASSES,
    MemoryVideos,
    TinyModel,
    assert_equal_states,
    classify,
    make_args,
    run_processes,
    test_loader,
    train,
    training_loader,
)

from engines.checkpoint import read_checkpoint, resume_training
from engines.distributed import close_distributed
from engines.logs import RunLog
from engines.runner import run_test, start_run
from engines.state import create_training_state
from engines.train import train_one_epoch, updates_per_epoch


def test_resumed_training_ends_with_the_same_weights(tmp_path):
    flags = ("--model_ema", "--model_ema_decay", "0.9")
    straight = train(tmp_path / "straight", *flags, epochs=3)
    train(tmp_path / "parts", *flags, epochs=3, until=1)
    torch.rand(7)
    resumed = train(tmp_path / "parts", *flags, epochs=3)
    assert resumed.step == straight.step == 9
    assert_equal_states(straight, resumed)
    for a, b in zip(straight.ema.module.parameters(), resumed.ema.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert straight.best_score == resumed.best_score


def test_the_random_states_matter_to_the_resumed_weights(tmp_path):
    """Without them the comparison above could not fail."""
    straight = train(tmp_path / "straight")
    train(tmp_path / "parts", until=1)
    path = tmp_path / "parts" / "checkpoint-latest.pth"
    saved = read_checkpoint(path)
    saved["random"] = []
    torch.save(saved, path)
    resumed = train(tmp_path / "parts")
    assert not torch.equal(straight.model.head.weight, resumed.model.head.weight)


def test_changed_flags_are_named_and_the_new_schedule_holds(tmp_path, caplog):
    train(tmp_path, epochs=2)
    caplog.set_level(logging.WARNING)
    args = make_args("--output_dir", str(tmp_path), "--epochs", "4", "--lr", "0.05", "--warmup_epochs", "1")
    context, args = start_run(args)
    state = create_training_state(classify(TinyModel(), args), args, context, steps_per_epoch=3)
    resume_training(state, args, context)
    assert "--epochs 2 -> 4" in caplog.text
    # 12 updates, 3 of warm-up, 6 done: a third of the cosine's way from the peak to the end.
    peak, end = 0.05 * 4 / 256, 1e-6 * 4 / 256
    assert max(g["lr"] for g in state.optimizer.param_groups) == pytest.approx(end + (peak - end) * 0.75)


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    plain = ("--mixup", "0", "--cutmix", "0", "--no_auto_resume")
    models = {}
    for update_freq, batch_size in ((1, 4), (2, 2)):
        args = make_args(
            "--update_freq",
            str(update_freq),
            "--opt",
            "sgd",
            "--lr",
            "10",
            "--warmup_epochs",
            "0",
            *plain,
            batch_size=batch_size,
        )
        context, args = start_run(args)
        loader = training_loader(MemoryVideos(12), batch_size)
        state = create_training_state(
            classify(TinyModel(dropout=0)), args, context, steps_per_epoch=updates_per_epoch(loader, update_freq)
        )
        train_one_epoch(state, loader, args, context, RunLog())
        assert state.step == 3
        models[update_freq] = state.model
    for a, b in zip(models[1].parameters(), models[2].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_step_and_logs_the_norm_before(tmp_path):
    args = make_args(
        "--opt",
        "momentum",
        "--momentum",
        "0",
        "--weight_decay",
        "0",
        "--layer_decay",
        "1",
        "--lr",
        "64",
        "--warmup_epochs",
        "0",
        "--clip_grad",
        "0.01",
        "--min_lr",
        "64",
    )
    context, args = start_run(args)
    loader = training_loader(MemoryVideos(4))
    state = create_training_state(classify(TinyModel(dropout=0)), args, context, steps_per_epoch=1)
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    result = train_one_epoch(state, loader, args, context, RunLog())
    moved = torch.cat([(a - b).flatten() for a, b in zip(state.model.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(0.01 * 64 * 4 / 256, rel=1e-3)
    assert result.metrics["grad_norm"] > 0.05


def test_bf16_trains_float32_weights(tmp_path):
    seen = []
    model = TinyModel()
    model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(module.linear(inputs[0]).dtype))
    args = make_args("--bf16")
    context, args = start_run(args)
    state = create_training_state(classify(model), args, context, steps_per_epoch=1)
    train_one_epoch(state, training_loader(MemoryVideos(4)), args, context, RunLog())
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_too_few_videos_for_an_update_say_what_to_change():
    with pytest.raises(ValueError, match="--batch_size or --update_freq"):
        updates_per_epoch(training_loader(MemoryVideos(3), 4), 1)


def test_log_lines_are_json_and_go_on_after_resuming(tmp_path):
    train(tmp_path, "--model_ema", epochs=2, until=1)
    train(tmp_path, "--model_ema", epochs=2)
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert lines[1].keys() >= {
        "train_loss",
        "train_lr",
        "train_grad_norm",
        "val_acc1",
        "val_acc5",
        "val_loss",
        "val_ema_acc1",
        "n_parameters",
        "best_acc1",
    }
    assert lines[0]["n_parameters"] == sum(p.numel() for p in TinyModel().parameters())


def test_log_writes_null_for_a_number_that_is_not_finite(tmp_path):
    RunLog(str(tmp_path)).epoch({"loss": float("nan"), "epoch": 3})
    assert json.loads((tmp_path / "log.txt").read_text()) == {"loss": None, "epoch": 3}


def test_tensorboard_files_hold_the_loss(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "out", "--log_dir", str(tmp_path / "board"), epochs=1)
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    wanted = ["loss", "lr", "grad_norm", "clips_per_second", "step_seconds", "data_seconds", "memory_gib"]
    assert {*(f"train/{name}" for name in wanted), "epoch/val_acc1"} <= set(events.Tags()["scalars"])
    [picture] = events.Images("train/clips")
    # Four clips of two frames of 8 x 8, with torchvision's margins of two pixels.
    assert (picture.height, picture.width) == (4 * 10 + 2, 2 * 10 + 2)
    assert 0.01 < events.Scalars("train/memory_gib")[0].value < 1000


def test_unreadable_training_videos_are_named():
    args = make_args()
    context, args = start_run(args)
    dataset = MemoryVideos(12, broken=[2, 7])
    state = create_training_state(classify(TinyModel(), args), args, context, steps_per_epoch=3)
    result = train_one_epoch(state, training_loader(dataset), args, context, RunLog())
    assert result.unreadable == {"videos/2.mp4": "cannot decode", "videos/7.mp4": "cannot decode"}


def test_test_after_training_uses_the_best_weights_and_writes_results(tmp_path):
    state = train(tmp_path, "--disable_eval_during_finetuning", epochs=1)
    assert not (tmp_path / "checkpoint-best.pth").exists()
    state = train(tmp_path, "--no_auto_resume", "--save_ckpt_freq", "1", epochs=2)
    assert (tmp_path / "checkpoint-0.pth").exists() and (tmp_path / "checkpoint-1.pth").exists()
    best = read_checkpoint(tmp_path / "checkpoint-best.pth")["model"]
    args = make_args("--output_dir", str(tmp_path), "--test_best")
    context, args = start_run(args)
    run_test(state.objective, test_loader(MemoryVideos(6, views=4, broken=[1])), args, context, state=state)
    assert all(torch.equal(value, best[name]) for name, value in state.model.state_dict().items())
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["videos"] == 5 and results["views"] == 4 and results["classes"] == CLASSES
    assert results["excluded"] == [{"path": "videos/1.mp4", "line": 2, "reason": "cannot decode"}]
    matrix = torch.tensor(results["confusion_matrix"])
    assert matrix.sum() == 5 and results["top1"] == pytest.approx(100 * matrix.trace().item() / 5)


@pytest.mark.parametrize(
    ("flags", "tested"),
    [([], "checkpoint-best.pth"), (["--test_best"], "checkpoint-best.pth"), (["--no_test_best"], "last epoch")],
)
def test_the_best_checkpoint_is_tested_where_there_is_one(tmp_path, flags, tested):
    state = train(tmp_path, epochs=1)
    context, args = start_run(make_args("--output_dir", str(tmp_path), *flags))
    run_test(state.objective, test_loader(MemoryVideos(6)), args, context, state=state)
    assert json.loads((tmp_path / "results.json").read_text())["weights"].endswith(tested)


def test_without_a_best_checkpoint_the_last_weights_are_tested_without_a_warning(tmp_path, caplog):
    state = train(tmp_path, "--disable_eval_during_finetuning", epochs=1)
    context, args = start_run(make_args("--output_dir", str(tmp_path)))
    run_test(state.objective, test_loader(MemoryVideos(6)), args, context, state=state)
    assert json.loads((tmp_path / "results.json").read_text())["weights"] == "weights of the last epoch"
    assert "--test_best" not in caplog.text


def test_the_average_is_tested_only_where_it_is_no_worse():
    args = make_args("--model_ema")
    context, args = start_run(args)
    state = create_training_state(classify(TinyModel(), args), args, context, steps_per_epoch=1)
    assert state.note_scores(30.0, 20.0) and state.tested() is state.objective
    assert state.note_scores(10.0, 40.0) and state.tested() is state.ema.module
    assert not state.note_scores(40.0, 39.0)
    assert state.best_score == 40.0


def test_eval_alone_finds_the_runs_averaged_weights(tmp_path):
    state = train(tmp_path, "--model_ema", "--model_ema_decay", "0.5", "--disable_eval_during_finetuning", epochs=1)
    args = make_args("--output_dir", str(tmp_path), "--eval")
    context, args = start_run(args)
    model = TinyModel()
    run_test(classify(model), test_loader(MemoryVideos(6)), args, context)
    assert torch.equal(model.head.weight, state.ema.module.model.head.weight)
    assert not torch.equal(model.head.weight, state.model.head.weight)


def train_plainly(folder, update_freq, batch_size):
    """Train without randomness, so that only the eight clips of each step matter."""
    flags = ("--opt", "sgd", "--mixup", "0", "--cutmix", "0", "--lr", "2", "--model_ema")
    return train(
        folder,
        *flags,
        "--update_freq",
        str(update_freq),
        noise=0.0,
        dropout=0.0,
        batch_size=batch_size,
        count=16,
        epochs=2,
    )


def _train_rank(rank, folder):
    state = train_plainly(folder, 2, 2)
    torch.save(
        {"model": state.model.state_dict(), "ema": state.ema.module.model.state_dict()}, folder / f"rank{rank}.pt"
    )
    close_distributed()


def _initial_head(seed):
    torch.manual_seed(seed)
    return TinyModel(dropout=0).head.weight.detach()


def test_two_processes_do_what_one_does_and_save_once(tmp_path):
    run_processes(_train_rank, 2, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    for kind in ("model", "ema"):
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), (kind, name)
    saved = read_checkpoint(tmp_path / "checkpoint-latest.pth")
    assert set(saved["model"]) == set(TinyModel().state_dict()), "names are the bare module's"
    assert len(saved["random"]) == 2
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2
    alone = train_plainly(tmp_path / "alone", 1, 8)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(first["model"][name], value, rtol=1e-4, atol=1e-6)
    moved = alone.model.head.weight - _initial_head(alone.args["seed"])
    assert moved.abs().max() > 1e-2, "training moved the weights far beyond the tolerance above"
