"""Runs of a model with a stem: averaged weights, an interruption, several processes, and the test of the result."""

import pytest
import timm
import torch
from engine_standins import CLASSES, MemoryVideos, classify, make_args, run_processes, train, training_loader

from engines.checkpoint import read_checkpoint
from engines.distributed import close_distributed
from engines.runner import fit, start_run
from engines.state import create_training_state
from models.arguments import WeightSettings
from models.build import build_described, load_finetune_checkpoint
from models.checkpoint import load_checkpoint
from models.describe import describe_checkpoint
from models.videomambapro import VideoMambaPro

NAME = "test_resnet"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The file of an image model with random weights."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("stem") / "stem.pth"
    torch.save(timm.create_model(NAME).state_dict(), path)
    return path


def build(file):
    torch.manual_seed(0)
    sizes = dict(img_size=8, patch_size=4, num_frames=2, embed_dim=16, depth=1, num_classes=CLASSES, dt_init="mamba")
    model = VideoMambaPro(stem=NAME, **sizes)
    load_finetune_checkpoint(model, WeightSettings(stem_weights=str(file)))
    return model


def stem_of(weights):
    return {name: tensor for name, tensor in weights.items() if "patch_embed.stem." in name}


def assert_kept(weights, file):
    expected, found = stem_of(build(file).state_dict()), stem_of(weights)
    assert found.keys() == expected.keys() and len(found) > 10
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_an_interrupted_run_ends_as_one_without_interruption_and_its_file_is_enough(file, tmp_path):
    flags = ("--model_ema", "--model_ema_decay", "0.9")
    straight = train(tmp_path / "straight", *flags, objective=classify(build(file)))
    train(tmp_path / "parts", *flags, until=1, objective=classify(build(file)))
    resumed = train(tmp_path / "parts", *flags, objective=classify(build(file)))
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    path = tmp_path / "parts" / "checkpoint-latest.pth"
    content = read_checkpoint(path)
    for weights in (content["model"], content["model_ema"]):
        assert_kept(weights, file)
    tested = build_described(describe_checkpoint(path))
    load_checkpoint(tested, path, require_head=True)
    clips = torch.randn(2, 3, 2, 8, 8)
    torch.testing.assert_close(tested.eval()(clips), resumed.tested().eval().model(clips))


def train_in_parallel(rank, folder, file, parallel):
    flags = ["--epochs", "1", "--lr", "0.05", "--warmup_epochs", "0", "--parallel", parallel, "--model_ema"]
    context, settings = start_run(make_args("--output_dir", str(folder), *flags, "--disable_eval_during_finetuning"))
    model = build(file)
    loader = training_loader(MemoryVideos(16), 4, rank, context.world_size)
    state = create_training_state(classify(model, settings), settings, context, steps_per_epoch=2)
    fit(state, loader, None, settings, context)
    close_distributed()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_several_processes_keep_it(parallel, file, tmp_path):
    run_processes(train_in_parallel, 2, tmp_path / "run", file, parallel)
    content = read_checkpoint(tmp_path / "run" / "checkpoint-latest.pth")
    for weights in (content["model"], content["model_ema"]):
        assert_kept(weights, file)
        assert not torch.equal(weights["patch_embed.proj.weight"], build(file).patch_embed.proj.weight)
