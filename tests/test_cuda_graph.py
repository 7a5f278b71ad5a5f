"""--cuda_graph: replayed steps equal ordinary ones, a broken step changes nothing, and the refusals give reasons."""

import copy
from dataclasses import replace

import pytest
import torch
from engine_standins import MemoryVideos, TinyModel, classify, make_args, training_loader
from graph_standin import Tape, record

from engines.cuda_graph import WARM_UP, GraphedStep, check_capturable
from engines.distributed import Context
from engines.logs import RunLog
from engines.objectives.base import SavedNames
from engines.optim import create_optimizer, create_schedule
from engines.parallel import load_optimizer, whole_state
from engines.state import create_training_state, seed_everything
from engines.train import train_one_epoch, updates_per_epoch

FLAGS = ("--lr", "0.1", "--warmup_epochs", "0.5", "--clip_grad", "1", "--model_ema", "--model_ema_decay", "0.9")


def build(*flags, graphed, device="cpu", steps=10, broken=(), batch_size=4, dropout=0.1, model=None, same=False):
    """Set up a run whose optimizer decides on the device; return the state and the arguments of an epoch.

    Args:
        broken: numbers of the steps with an infinite clip.
        model: creates the model.
        same: whether all clips are equal, and not mixed.
    """
    seed_everything(3)
    flags += ("--mixup", "0", "--cutmix", "0") if same else ()
    args = make_args(*FLAGS, "--device", device, *flags, batch_size=batch_size)
    dataset = MemoryVideos(steps * batch_size * args.update_freq)
    loader = training_loader(dataset, batch_size)
    if same:
        dataset.clips[:] = dataset.clips[0]
    order = list(loader.sampler)
    for step in broken:
        dataset.clips[order[step * batch_size * args.update_freq]] = float("inf")
    context = Context(device=torch.device(device))
    objective = classify(model() if model else TinyModel(dropout=dropout), args)
    updates = updates_per_epoch(loader, args.update_freq)
    state = create_training_state(objective, args, context, steps_per_epoch=updates)
    if device == "cpu":
        optimizer = create_optimizer(SavedNames(objective), args, state.rates.peak, on_device=True)
        schedule = create_schedule(optimizer, args, state.rates, state.steps_per_epoch)
        schedule.step_update(0)
        state = replace(state, optimizer=optimizer, scheduler=schedule)
    if graphed:
        state.graph = GraphedStep(context.device, record(state) if device == "cpu" else None)
    return state, (loader, args, context, RunLog())


def run(*flags, **options):
    """Train one epoch step by step; return the state and the sums of each step."""
    state, (loader, *others) = build(*flags, **options)
    sums = []

    class Watched(RunLog):
        def scalars(self, group, values, step):
            sums.append(values)

    args = others[0].changed(log_interval=1)
    train_one_epoch(state, loader, args, others[1], Watched())
    return state, sums


def weights(state):
    return [*state.objective.state_dict().values(), *state.ema.module.state_dict().values()]


@pytest.mark.parametrize(
    "flags", [(), ("--update_freq", "2"), ("--model_ema_warmup", "--mixup", "0", "--cutmix", "0")]
)
def test_replayed_steps_equal_ordinary_ones_to_the_bit(flags):
    (plain, expected), (graphed, found) = (run(*flags, graphed=on) for on in (False, True))
    assert [step["loss"] for step in found] == [step["loss"] for step in expected] and len(found) == 10
    assert [step["grad_norm"] for step in found] == [step["grad_norm"] for step in expected]
    assert len({step["lr"] for step in found}) == 10, "the learning rate changes, and the replays follow it"
    for a, b in zip(weights(graphed), weights(plain), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("graphed", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(graphed, device="cpu"):
    state, (loader, *others) = build(graphed=graphed, broken=range(1, 10), device=device)
    train_one_epoch(state, loader, *others)
    first, (loader, *others) = build(graphed=False, device=device)
    first.steps_per_epoch = 1
    train_one_epoch(first, loader, *others)
    assert (state.step, state.skipped, first.skipped) == (10, 9, 0)
    for a, b in zip(weights(state), weights(first), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0 if device == "cpu" else 1e-6)
    assert {moments["step"].item() for moments in state.optimizer.state.values()} == {1}


def test_replays_continue_after_a_broken_step():
    broken = (WARM_UP + 2,)
    (plain, _), (graphed, steps) = (run(graphed=on, broken=broken) for on in (False, True))
    assert plain.skipped == graphed.skipped == 1 and len(steps) == 10
    for a, b in zip(weights(graphed), weights(plain), strict=True):
        assert torch.equal(a, b) and a.isfinite().all()


def test_the_first_replay_of_a_run_is_its_fourth_step():
    captured = []
    step = GraphedStep(torch.device("cpu"), capture=lambda function: captured.append(function) or function)
    for call in range(1, 6):
        result = step(lambda batches, numbers: batches[0]["x"] + numbers["n"], [batch(call)], number(10))
        assert result.item() == 10 + call
        assert len(captured) == (call > WARM_UP)


def test_other_shapes_are_computed_without_the_graph():
    step = GraphedStep(torch.device("cpu"), capture=lambda function: lambda: "replayed")
    results = [step(lambda batches, numbers: "computed", [batch(1, size)], number(1)) for size in (2, 2, 2, 2, 1, 2)]
    assert results == ["computed"] * 3 + ["replayed", "computed", "replayed"]


def batch(value, size=1):
    return {"x": torch.full((size,), float(value))}


def number(value):
    return {"n": torch.tensor(float(value))}


def test_the_stand_in_freezes_what_a_graph_would():
    """A control: numbers of the host keep their value, contents of tensors do not, and waiting is an error."""
    x, host, tape = torch.ones(2), [2.0], Tape()
    with tape:
        y = x * host[0]
        with pytest.raises(AssertionError, match="waits"):
            y.sum().item()
    x.fill_(5), host.append(host.pop() + 1)
    tape.replay()
    assert y.tolist() == [10, 10]


def test_the_average_on_the_device_is_that_of_timm():
    state, (loader, *others) = build(graphed=False)
    state.steps_per_epoch = 0
    for step in range(1, 4):
        before = copy.deepcopy(state.ema)
        state.steps_per_epoch += 1
        train_one_epoch(state, loader, *others)
        before.update(state.objective, step=step)
        for mine, theirs in zip(state.ema.module.parameters(), before.module.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_refusals_give_the_reason():
    objective, cuda = classify(TinyModel()), Context(device=torch.device("cuda"))
    args = make_args()
    fused = create_optimizer(SavedNames(objective), args, 0.1, on_device=True)

    def refusal(args=args, objective=objective, optimizer=fused, context=cuda):
        with pytest.raises(ValueError, match="--cuda_graph: ") as error:
            check_capturable(args, objective, optimizer, context)
        return str(error.value)

    check_capturable(args, objective, fused, cuda)
    assert "GPU" in refusal(context=Context())
    assert "one process" in refusal(context=replace(cuda, world_size=2))
    assert "--compile" in refusal(args=args.changed(compile=True))
    sgd = args.changed(opt="sgd")
    assert "--opt sgd" in refusal(sgd, optimizer=create_optimizer(SavedNames(objective), sgd, 0.1, on_device=True))
    checkpointed = classify(TinyModel())
    checkpointed.model.checkpointed_blocks = 2
    assert "--use_checkpoint" in refusal(objective=checkpointed)
    boxes = classify(TinyModel())
    boxes.fixed_shapes = False
    assert "changing shapes" in refusal(objective=boxes)
    with pytest.raises(ValueError, match="'boxes' of a batch is a list"):
        GraphedStep(torch.device("cpu"))(lambda *_: None, [{"boxes": []}], {})


def test_a_run_refuses_before_it_starts():
    args = make_args("--cuda_graph")
    with pytest.raises(ValueError, match="--cuda_graph: it needs an NVIDIA GPU"):
        create_training_state(classify(TinyModel()), args, Context(), steps_per_epoch=1)


def test_moments_of_a_run_elsewhere_are_continued_on_the_device():
    """A checkpoint of an optimizer that counts steps on the host must not make this one do so."""
    args = make_args()
    objective = classify(TinyModel())
    saved = create_optimizer(SavedNames(objective), args, 0.1)
    sum(p.sum() for p in objective.parameters()).backward()
    saved.step()
    fused = create_optimizer(SavedNames(objective), args.changed(weight_decay=0.5), 0.2, on_device=True)
    load_optimizer(fused, whole_state(saved.state_dict()))
    assert all(group["fused"] and group["lr"] == 0.2 for group in fused.param_groups)
    assert {group["weight_decay"] for group in fused.param_groups} == {0.0, 0.5}
    assert all(torch.equal(fused.state[p]["exp_avg"], saved.state[p]["exp_avg"]) for p in objective.parameters())
    fused.param_groups.append(fused.param_groups[0])
    with pytest.raises(ValueError, match="parameter groups"):
        load_optimizer(fused, whole_state(saved.state_dict()))
