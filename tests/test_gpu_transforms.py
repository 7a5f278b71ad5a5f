"""--gpu_transforms: the batches, the training and the results are those of a run without it."""

import json
import logging

import numpy as np
import pytest
import torch
from data_flags import data_flags
from engine_standins import TinyModel, assert_equal_states, classify, make_args
from video_files import write_folder, write_video

from datasets.build import build_dataset, build_loader
from datasets.collate import clips_on
from datasets.erasing import COLUMNS, MODES, RandomErasing
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, finish
from engines.checkpoint import read_checkpoint, resume_training
from engines.logs import clip_picture
from engines.runner import fit, run_test, start_run
from engines.state import create_training_state
from engines.train import updates_per_epoch

COUNT, CLASSES = 8, 3
STRONG = ("--aa", "rand-m7-n4-mstd0.5-inc1", "--num_sample", "2", "--reprob", "0.7", "--recount", "3")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight videos, whose short side is that of the clips, and as many images in folders, with lists of both."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        frames = rng.integers(0, 256, (9 + i, 32, 48, 3), dtype=np.uint8)
        write_video(root / f"v{i}.mp4", frames)
        write_folder(root / f"f{i}", frames[:1], "{}.png")
    for name in ("train", "val", "test"):
        (root / f"{name}.csv").write_text("".join(f"v{i}.mp4 {i % CLASSES}\n" for i in range(COUNT)))
        (root / f"images_{name}.csv").write_text("".join(f"f{i}/1.png {i % CLASSES}\n" for i in range(COUNT)))
    return root


def batches(root, mode, *flags):
    """All batches of a mode, in the order of epoch 1 in training."""
    args = data_flags(root, *flags)
    loader = build_loader(build_dataset(mode, args), mode, args)
    if mode == "train":
        loader.sampler.set_epoch(1)
    return list(loader)


def assert_same_batches(root, mode, *flags):
    plain, raw = batches(root, mode, *flags), batches(root, mode, *flags, "--gpu_transforms")
    for want, got in zip(plain, raw, strict=True):
        assert got["clips"].dtype == torch.uint8 and want["clips"].dtype == torch.float32
        assert got["clips"].shape == want["clips"].shape and 4 * got["clips"].nbytes == want["clips"].nbytes
        for name in ("targets", "indices"):
            assert torch.equal(got[name], want[name])
        if mode == "test":  # evaluation takes views out of their videos, and erases nothing
            clips = finish(got["clips"].flatten(0, 1)).unflatten(0, got["clips"].shape[:2])
        else:
            clips = clips_on("cpu", got)
        assert torch.equal(clips, want["clips"])
    return raw


@pytest.mark.parametrize("mode", MODES)
def test_training_batches_are_equal_to_the_bit(root, mode):
    raw = assert_same_batches(root, "train", *STRONG, "--remode", mode)
    boxes = torch.cat([batch["boxes"] for batch in raw])
    assert boxes.shape == (2 * 6, 3, COLUMNS) and (boxes[:, :, 2] > 0).sum() > 8, "something was erased"


def test_training_batches_of_workers_are_equal_to_the_bit(root):
    assert_same_batches(root, "train", *STRONG, "--num_workers", "2")


@pytest.mark.parametrize("timeout", ["0", "60"], ids=["unguarded", "guarded"])
@pytest.mark.parametrize("mode", ["validation", "test"])
def test_evaluation_batches_are_equal_to_the_bit(root, mode, timeout):
    """Frames that nothing had to resize lie in the guard's memory, which its next video overwrites."""
    views = ("--test_num_segment", "1", "--test_num_crop", "1", "--read_timeout", timeout)
    assert len(assert_same_batches(root, mode, *views)[0]["clips"]) > 1, "or nothing is overwritten"


def test_all_views_of_a_test_are_equal_to_the_bit(root):
    assert assert_same_batches(root, "test", "--test_num_segment", "2")[0]["clips"].shape[1] == 6


@pytest.mark.parametrize("mode", ["train", "validation"])
def test_batches_of_images_are_equal_to_the_bit(root, mode):
    lists = [word for name in ("train", "val") for word in (f"--{name}_list", str(root / f"images_{name}.csv"))]
    raw = assert_same_batches(root, mode, *STRONG, *lists, "--num_frames", "1")
    assert raw[0]["clips"].shape[2] == 1


def test_what_is_finished_is_what_the_bytes_say():
    """Against float64; erasing draws from its boxes' seeds alone, and leaves the process's generator as it is."""
    clips = torch.randint(0, 256, (2, 3, 4, 40, 50), dtype=torch.uint8)
    rng = np.random.default_rng(1)
    boxes = torch.stack([RandomErasing(1.0, "pixel", 2).draw(40, 50, rng) for _ in clips])
    state = torch.get_rng_state()
    found = finish(clips, boxes)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1234)
    assert torch.equal(found, finish(clips, boxes))
    mean, std = (
        torch.tensor(values, dtype=torch.float64)[:, None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    erased = torch.zeros(2, 40, 50, dtype=torch.bool)
    for i, of_clip in enumerate(boxes.tolist()):
        for top, left, height, width, _, _ in of_clip:
            erased[i, top : top + height, left : left + width] = True
    same = (found - (clips / 255 - mean) / std).abs().amax((1, 2)) < 1e-5
    assert same[~erased].all() and not same[erased].any() and 0.03 < erased.float().mean() < 0.7
    assert finish(found, boxes) is found, "what is finished is not finished twice"


def run(root, output_dir, *flags, until=None):
    """Train two epochs with validation, then test; return state and test result."""
    data = data_flags(root, *STRONG, "--batch_size", "4", *flags)
    words = ("--output_dir", str(output_dir), "--epochs", "2", "--warmup_epochs", "0", "--lr", "0.5")
    args = make_args(*words, **vars(data))
    context, args = start_run(args)
    loaders = {mode: build_loader(build_dataset(mode, data), mode, data) for mode in ("train", "validation", "test")}
    updates = updates_per_epoch(loaders["train"], 1)
    state = create_training_state(classify(TinyModel(), args), args, context, steps_per_epoch=updates)
    resume_training(state, args, context)
    args = args.changed(epochs=until or args.epochs)
    fit(state, loaders["train"], loaders["validation"], args, context)
    return state, run_test(state.objective, loaders["test"], args, context, state=state)


def test_a_run_is_the_same_with_it_and_is_resumed_exactly(root, tmp_path, caplog):
    plain, expected = run(root, tmp_path / "plain")
    with caplog.at_level(logging.WARNING):
        flagged, found = run(root, tmp_path / "flagged", "--gpu_transforms")
    assert "--gpu_transforms on a CPU moves work from the dataloader workers" in caplog.text
    assert_equal_states(plain, flagged)
    assert np.array_equal(expected.outputs, found.outputs) and found.views == 12
    lines = [json.loads((tmp_path / name / "log.txt").read_text().splitlines()[-1]) for name in ("plain", "flagged")]
    assert lines[0]["val_loss"] == lines[1]["val_loss"]
    assert read_checkpoint(tmp_path / "flagged" / "checkpoint-latest.pth")["args"]["gpu_transforms"] is True

    run(root, tmp_path / "parts", "--gpu_transforms", until=1)
    torch.rand(7)
    assert_equal_states(flagged, run(root, tmp_path / "parts", "--gpu_transforms")[0])


def test_a_bad_update_is_reported_and_the_picture_is_the_same(root, tmp_path, monkeypatch):
    first = [batches(root, "train", *STRONG, *flags)[0] for flags in ((), ("--gpu_transforms",))]
    assert torch.equal(*map(clip_picture, first))
    forward = TinyModel.forward
    monkeypatch.setattr(TinyModel, "forward", lambda self, clips: forward(self, clips) * float("nan"))
    with pytest.raises(RuntimeError, match="the model's outputs are not finite"):
        run(root, tmp_path, "--gpu_transforms")
    report = json.loads((tmp_path / "nonfinite-0.json").read_text())["processes"][0]
    assert len(report["batches"][0]["files"]) == 4 and report["activations"]["stem"]["largest"] > 0
