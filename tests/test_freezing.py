"""`--freeze`: which parameters stay as loaded, to the bit, what they cost, and values that make no sense."""

import pytest
import torch
from engine_standins import MemoryVideos, classify, make_args, run_processes, training_loader
from torch.utils.flop_counter import FlopCounterMode

import run_class_finetuning
from common.settings import from_flags
from engines.checkpoint import read_checkpoint, resume_training
from engines.configuration import parse_arguments
from engines.distributed import Context, close_distributed
from engines.early_stop import STOPPED
from engines.estimate import estimate_memory
from engines.objectives.base import SavedNames
from engines.optim import create_optimizer
from engines.runner import fit, start_run
from engines.state import create_training_state, seed_everything
from engines.train import updates_per_epoch
from models.arguments import WeightSettings
from models.build import load_finetune_checkpoint
from models.complexity import measure_complexity, saved_activation_bytes
from models.detection import ActionDetector
from models.freezing import freeze_layers
from models.videomambapro import VideoMambaPro

STEM = {"cls_token", "pos_embed", "temporal_pos_embedding", "patch_embed.proj.weight", "patch_embed.proj.bias"}
HEAD = {"head.weight", "head.bias"}


def build(seed=0, **settings):
    torch.manual_seed(seed)
    sizes = dict(img_size=8, patch_size=4, num_frames=2, embed_dim=16, depth=3, num_classes=3, drop_path_rate=0.1)
    return VideoMambaPro(**(sizes | settings))


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def of_layers(model, *numbers):
    starts = tuple(f"layers.{number}." for number in numbers)
    return {name for name, _ in model.named_parameters() if name.startswith(starts)}


def saved(folder, state, name="weights.pth"):
    torch.save({"model": state}, folder / name)
    return str(folder / name)


def test_each_value_freezes_what_it_says():
    everything = {name for name, _ in build().named_parameters()}
    for part, trained in {
        "stem": everything - STEM,
        "1": of_layers(build(), 1, 2) | {"norm_f.weight"} | HEAD,
        "2": of_layers(build(), 2) | {"norm_f.weight"} | HEAD,
        "all": HEAD,
    }.items():
        model = build()
        frozen = freeze_layers(model, part)
        assert trained_names(model) == trained and set(frozen) == everything - trained
    detector = ActionDetector(build(num_classes=0), 3)
    freeze_layers(detector, "all")
    assert trained_names(detector) == HEAD


class Cut(MemoryVideos):
    """Ends the run at its 17th reading, in the middle of the second epoch."""

    accesses = 0

    def __getitem__(self, index):
        self.accesses += 1
        if self.accesses == 17:
            raise SystemExit(STOPPED)
        return super().__getitem__(index)


def train(folder, weights, part, dataset):
    """Two epochs of three steps from `weights`, as a run script makes them; return the state."""
    flags = ["--output_dir", str(folder), "--epochs", "2", "--lr", "0.05", "--save_every_steps", "1", "--model_ema"]
    flags += ["--layer_decay", "0.5", "--layer_decay_scope", "layers", "--model_ema_decay", "0.9"]
    flags += ["--warmup_epochs", "0", "--disable_eval_during_finetuning"]
    settings, context = make_args(*flags, freeze=part), Context()
    model = build()
    seed_everything(5)
    load_finetune_checkpoint(model, WeightSettings(finetune=weights, freeze=part))
    loader = training_loader(dataset)
    steps = updates_per_epoch(loader, 1)
    state = create_training_state(classify(model, settings), settings, context, steps_per_epoch=steps)
    resume_training(state, settings, context)
    fit(state, loader, None, settings, context)
    return state


@pytest.mark.parametrize("part", ["stem", "2", "all"])
def test_frozen_parameters_stay_as_loaded_through_layer_decay_average_and_resume(tmp_path, part):
    source = build(seed=1).state_dict()
    weights = saved(tmp_path, source)
    straight = train(tmp_path / "straight", weights, part, MemoryVideos(12))
    with pytest.raises(SystemExit):
        train(tmp_path / "parts", weights, part, Cut(12))
    resumed = train(tmp_path / "parts", weights, part, MemoryVideos(12))
    assert straight.step == resumed.step == 6
    reference = build()
    frozen = set(freeze_layers(reference, part))
    for state in (straight, resumed):
        for weights_now in (state.model.state_dict(), state.ema.module.model.state_dict()):
            same = {name for name, tensor in weights_now.items() if torch.equal(tensor, source[name])}
            assert same == frozen
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_run_is_not_resumed_with_other_frozen_layers(tmp_path, caplog):
    weights = saved(tmp_path, build(seed=1).state_dict())
    train(tmp_path / "run", weights, "1", MemoryVideos(12))
    with pytest.raises(ValueError, match="belongs to another model or optimizer"):
        train(tmp_path / "run", weights, "2", MemoryVideos(12))
    assert "--freeze 1 -> 2" in caplog.text


def train_in_parallel(rank, folder, weights, parallel):
    flags = ["--epochs", "1", "--lr", "0.05", "--warmup_epochs", "0", "--parallel", parallel, "--model_ema"]
    context, settings = start_run(make_args("--output_dir", str(folder), *flags, "--disable_eval_during_finetuning"))
    model = build()
    load_finetune_checkpoint(model, WeightSettings(finetune=weights, freeze="2"))
    loader = training_loader(MemoryVideos(16), 4, rank, context.world_size)
    state = create_training_state(classify(model, settings), settings, context, steps_per_epoch=2)
    fit(state, loader, None, settings, context)
    close_distributed()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_frozen_parameters_stay_as_loaded_in_parallel_runs(tmp_path, parallel):
    source = build(seed=1).state_dict()
    weights = saved(tmp_path, source)
    run_processes(train_in_parallel, 2, tmp_path / "run", weights, parallel)
    content = read_checkpoint(tmp_path / "run" / "checkpoint-latest.pth")
    for trained in (content["model"], content["model_ema"]):
        same = {name for name, tensor in trained.items() if torch.equal(tensor, source[name])}
        assert same == set(freeze_layers(build(), "2"))


def test_frozen_parameters_cost_neither_gradients_nor_moments_nor_activations_nor_a_backward_pass():
    settings = make_args("--model_ema")
    bytes_kept, estimates, backward_flops = [], [], []
    for part in ("", "stem", "1", "2", "all"):
        model = build(num_frames=4)
        frozen = freeze_layers(model, part) if part else []
        kept = 0

        def count(tensor):
            nonlocal kept
            kept += tensor.nbytes if tensor.dim() > 1 else 0
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(torch.randn(2, 3, 4, 8, 8)).square().sum()
        with FlopCounterMode(display=False) as counted:
            loss.backward()
        backward_flops.append(counted.get_total_flops())
        assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == set(frozen)
        optimizer = create_optimizer(SavedNames(classify(model)), settings, 1e-3)
        optimizer.step()
        assert len(optimizer.state) == len(trained_names(model))
        bytes_kept.append(kept)
        estimates.append(estimate_memory(measure_complexity(model, bf16=False), settings)[0])
    assert bytes_kept == sorted(bytes_kept, reverse=True) and bytes_kept[-1] < bytes_kept[0] / 20
    for falling in (estimates, backward_flops):  # the second stands for the time, which depends on the machine
        assert falling == sorted(falling, reverse=True) and len(set(falling)) == len(falling)
    assert backward_flops[-1] < backward_flops[0] / 20


def test_the_estimate_counts_checkpointed_blocks_among_the_trained_ones():
    whole = build(use_checkpoint=True, checkpoint_num=2)
    part = build(use_checkpoint=True, checkpoint_num=2)
    freeze_layers(part, "2")
    plain = build()
    freeze_layers(plain, "2")
    assert saved_activation_bytes(part, bf16=False) == saved_activation_bytes(plain, bf16=False)
    assert saved_activation_bytes(part, bf16=False) < saved_activation_bytes(whole, bf16=False)


@pytest.mark.parametrize("value", ["0", "-1", "head", "1.5"])
def test_values_that_mean_nothing_are_refused(capsys, value):
    with pytest.raises(SystemExit):
        parse_arguments(run_class_finetuning.get_parser(), [f"--freeze={value}"], script=run_class_finetuning.SCRIPT)
    assert "must be stem, a number of blocks above 0, or all" in " ".join(capsys.readouterr().err.split())


def test_freezing_what_was_not_trained_is_refused(tmp_path, caplog):
    with pytest.raises(ValueError, match="would freeze random weights; add --finetune FILE"):
        load_finetune_checkpoint(build(), WeightSettings(freeze="stem"))
    state = build(seed=1).state_dict()
    weights = saved(tmp_path, state)
    with pytest.raises(ValueError, match="--freeze 4: the model has 3 blocks"):
        load_finetune_checkpoint(build(), WeightSettings(finetune=weights, freeze="4"))
    with pytest.raises(ValueError, match="leaves nothing to train"):
        load_finetune_checkpoint(build(num_classes=0), WeightSettings(finetune=weights, freeze="all"))
    lacking = saved(tmp_path, {k: v for k, v in state.items() if not k.startswith("layers.1.norm")}, "lacking.pth")
    with pytest.raises(ValueError, match="layers.1.norm.weight is not in --finetune and would stay random"):
        load_finetune_checkpoint(build(), WeightSettings(finetune=lacking, allow_random=True, freeze="2"))
    load_finetune_checkpoint(build(), WeightSettings(finetune=lacking, allow_random=True, freeze="1"))
    images = saved(tmp_path, {k: v for k, v in state.items() if k != "temporal_pos_embedding"}, "images.pth")
    load_finetune_checkpoint(build(), WeightSettings(finetune=images, freeze="stem"))
    assert "temporal_pos_embedding is not in --finetune and stays at its initial value" in caplog.text


def test_the_flag_reaches_the_model_and_a_test_ignores_it(tmp_path):
    weights = saved(tmp_path, build(seed=1).state_dict())
    words = ["--finetune", weights, "--freeze", "all"]
    args = parse_arguments(run_class_finetuning.get_parser(), words, script=run_class_finetuning.SCRIPT)
    model = build()
    load_finetune_checkpoint(model, from_flags(WeightSettings, args))
    assert trained_names(model) == HEAD
    tested = build()
    load_finetune_checkpoint(tested, WeightSettings(finetune=weights, freeze="all", eval=True))
    assert trained_names(tested) == {name for name, _ in tested.named_parameters()}
