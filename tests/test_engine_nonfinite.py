"""Non-finite losses and gradients: skipped by all processes and recorded; too many stop the run."""

import json

import pytest
import torch
from engine_standins import CLASSES, MemoryVideos, TinyModel, classify, make_args, run_processes, training_loader

from engines.distributed import close_distributed
from engines.logs import RunLog
from engines.nonfinite import largest_activations
from engines.objectives.classification import Classification
from engines.runner import start_run
from engines.state import create_training_state
from engines.train import train_one_epoch, updates_per_epoch


def build(*flags, bad=(5,), count=8, kind=Classification):
    """Set up a run in which the videos `bad` are infinite; return the arguments of `train_one_epoch`."""
    args = make_args("--lr", "1", "--warmup_epochs", "0", *flags)
    context, args = start_run(args)
    dataset = MemoryVideos(count)
    dataset.clips[list(bad)] = float("inf")
    loader = training_loader(dataset, 4, context.rank, context.world_size)
    steps = updates_per_epoch(loader, args.update_freq)
    state = create_training_state(kind(TinyModel(), CLASSES), args, context, steps_per_epoch=steps)
    return state, loader, args, context, RunLog()


def snapshot(state):
    tensors = [*state.model.parameters(), *state.ema.module.parameters()]
    tensors += [v for moments in state.optimizer.state.values() for v in moments.values()]
    return [tensor.detach().clone() for tensor in tensors]


def test_a_skipped_update_leaves_weights_average_and_optimiser(tmp_path):
    flags = ("--model_ema", "--model_ema_decay", "0.5", "--output_dir", str(tmp_path))
    state, loader, *rest = build(*flags, bad=range(8))
    loader.dataset.clips[loader.sampler.__iter__().__next__()] = 0.0  # still a bad batch: three of four are
    before = snapshot(state)
    random_before = torch.get_rng_state()
    result = train_one_epoch(state, loader, *rest)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(state), strict=True))
    assert (state.step, state.skipped, result.updates, result.metrics["skipped"]) == (2, 2, 0, 2)
    assert {p.name for p in tmp_path.glob("nonfinite-*")} == {"nonfinite-0.json", "nonfinite-1.json"}
    assert not torch.equal(random_before, torch.get_rng_state()), "the skipped passes drew their dropout"


def test_a_skip_changes_nothing_for_the_updates_after_it(tmp_path):
    """A run with a bad second batch continues as if the optimizer had not been called for it."""
    state, loader, *rest = build("--output_dir", str(tmp_path), count=12, bad=())
    order = list(loader.sampler)
    loader.dataset.clips[order[4]] = float("inf")
    train_one_epoch(state, loader, *rest)
    assert state.skipped == 1

    other, loader, *_ = build(count=12, bad=())
    loader.dataset.clips[order[4]] = float("inf")
    for number, batch in enumerate(loader):
        other.optimizer.zero_grad()
        other.parallel.train()(batch)["loss"].backward()
        if number != 1:
            other.optimizer.step()
        other.step += 1
        other.scheduler.step_update(other.step)
    for a, b in zip(state.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_report_names_files_and_the_layer_where_it_began(tmp_path):
    state, loader, *rest = build("--output_dir", str(tmp_path), "--update_freq", "2")
    train_one_epoch(state, loader, *rest)
    report = json.loads((tmp_path / "nonfinite-0.json").read_text())
    (process,) = report["processes"]
    guilty = [batch for batch in process["batches"] if not isinstance(batch["loss"], float)]
    assert len(process["batches"]) == 2 and len(guilty) == 1
    assert "videos/5.mp4" in guilty[0]["files"] and len(guilty[0]["files"]) == 4
    assert process["grad_norm"] in ("nan", "inf")
    layers = process["activations"]
    assert list(layers)[0] == "stem" and layers["stem"]["not_finite"] > 0
    assert {"layers.0", "layers.0.linear", "norm_f", "head"} <= set(layers)


def test_largest_activations_against_the_forward_pass():
    model, clips = TinyModel(dropout=0.5).train(), torch.randn(2, 3, 2, 8, 8)
    with torch.no_grad():
        expected = model.stem(clips).abs().max().item()
    state = torch.get_rng_state()
    batch = {"clips": clips, "targets": torch.tensor([0, 2])}
    seen = largest_activations(classify(model), batch, torch.device("cpu"), bf16=False)
    assert seen["stem"] == {"largest": expected, "not_finite": 0}
    assert model.training and torch.equal(state, torch.get_rng_state())
    model.layers[1].linear.bias.data[0] = float("inf")
    seen = largest_activations(classify(model), batch, torch.device("cpu"), bf16=False)
    assert seen["layers.0"]["not_finite"] == 0 and seen["layers.1.linear"]["not_finite"] == 2 * 8


class DrawsMasks(Classification):
    def prepare(self, batch, device):
        return super().prepare(batch, device) | {"mask": torch.rand(4, device=device)}


def test_the_look_draws_nothing_from_the_run():
    objective = DrawsMasks(TinyModel(), CLASSES)
    batch = {"clips": torch.rand(2, 3, 2, 8, 8), "targets": torch.zeros(2, dtype=torch.int64)}
    state = torch.get_rng_state()
    largest_activations(objective, batch, torch.device("cpu"), bf16=False)
    assert torch.equal(state, torch.get_rng_state()) and objective.training


def test_one_too_many_stops_the_run_and_names_the_files():
    state, loader, *rest = build("--max_skipped_steps", "1", bad=range(8))
    before = state.model.head.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"--max_skipped_steps is 1.*") as error:
        train_one_epoch(state, loader, *rest)
    assert str(error.value).count(".mp4") == 4 and "2 step(s)" in str(error.value)
    assert torch.equal(before, state.model.head.weight)


class SteepRoot(Classification):
    """Its loss is finite and its gradient is not."""

    def loss(self, logits, targets):
        return logits.clamp(max=0).sum() * 0 + (logits - logits.detach()).abs().sum().sqrt()  # slope 1 / 0 at 0


def test_the_gradient_alone_counts_too():
    state, loader, *rest = build(bad=(), kind=SteepRoot)
    result = train_one_epoch(state, loader, *rest)
    assert result.skipped == 2 and result.updates == 0


def _train_rank(rank, folder):
    state, loader, *rest = build("--output_dir", str(folder), count=16)
    train_one_epoch(state, loader, *rest)
    torch.save([state.skipped, state.model.state_dict()], folder / f"rank{rank}.pt")
    close_distributed()


def test_all_processes_skip_when_one_must(tmp_path):
    run_processes(_train_rank, 2, tmp_path)
    (skipped, first), (other_skipped, second) = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert skipped == other_skipped == 1
    assert all(torch.equal(value, second[name]) and value.isfinite().all() for name, value in first.items())
    (path,) = tmp_path.glob("nonfinite-*.json")
    processes = json.loads(path.read_text())["processes"]
    losses = [isinstance(process["batches"][0]["loss"], float) for process in processes]
    assert [process["rank"] for process in processes] == [0, 1] and sorted(losses) == [False, True]
