"""The stored loss curve of a tiny seeded run: code that only moves must reproduce it to the bit.

The run goes through the command line alone, so that it outlives every change of the code behind it. `python
tests/test_loss_curve.py` stores a new curve: only where a change of the numbers is meant, with the reason in the
commit message.
"""

import hashlib
import json
import math
import platform
import re
import shlex
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run_script
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STORED = Path(__file__).parent / "data" / "loss_curve.json"
CLASSES, FRAMES, SIDE = 3, 6, 40
VIDEOS = {"train": 12, "val": 5, "test": 2}
# Frames are few and small; everything else is as a real run has it: augmentation, mixing, averaging, stochastic depth.
FLAGS = """
    --model videomambapro_nano --backend portable --device cpu --no_bf16 --seed 7
    --num_frames 4 --input_size 32 --short_side_size 32 --sampling uniform --filename_tmpl img_{:05}.png
    --batch_size 4 --num_sample 2 --num_workers 0 --read_timeout 0 --test_num_segment 2 --test_num_crop 1
    --epochs 2 --warmup_epochs 1 --lr 0.05 --layer_decay_scope layers --clip_grad 5 --model_ema --model_ema_decay 0.8
    --log_interval 1 --save_ckpt_freq 1 --no_test_best
"""
OTHER_MACHINE = {"rel": 1e-5, "abs": 1e-7}


def write_videos(folder):
    """Folders of PNG frames, decoded to the bit everywhere, and their lists."""
    generator = np.random.default_rng(0)
    for split, count in VIDEOS.items():
        lines = []
        for video in range(count):
            name, label = f"{split}{video}", video % CLASSES
            (folder / name).mkdir(parents=True)
            for frame in range(FRAMES):
                pixels = generator.integers(0, 128, (SIDE, SIDE, 3), dtype=np.uint8)
                pixels[..., label] += 64
                Image.fromarray(pixels).save(folder / name / f"img_{frame + 1:05}.png")
            lines.append(f"{name} {FRAMES} {label}\n")
        (folder / f"{split}.csv").write_text("".join(lines))


def train(data, output, *flags):
    """Run the script with one thread; what it wrote, as `read_curve` reads it."""
    where = ["--data_path", str(data), "--data_root", str(data), "--output_dir", str(output)]
    output.mkdir()
    status, printed = run_script("run_class_finetuning.py", *shlex.split(FLAGS), *where, *flags, folder=output)
    assert status == 0, printed[-3000:]
    return read_curve(output)


def read_curve(output):
    """Losses and gradient norms of every step, losses of the validations, test scores and the final weights."""
    events = EventAccumulator(str(output)).Reload()
    steps = {name: {e.step: e.value for e in events.Scalars(f"train/{name}")} for name in ("loss", "grad_norm")}
    logged = [json.loads(line) for line in (output / "log.txt").read_text().splitlines()]
    saved = torch.load(output / "checkpoint-latest.pth", map_location="cpu", weights_only=True)
    weights = {key: saved[key] for key in ("model", "model_ema")}
    with np.load(output / "scores.npz") as arrays:
        scores = arrays["scores"].astype(float)
    return {
        "loss": [steps["loss"][step] for step in sorted(steps["loss"])],
        "grad_norm": [steps["grad_norm"][step] for step in sorted(steps["grad_norm"])],
        "train_loss": [line["train_loss"] for line in logged],
        "val_loss": [line["val_loss"] for line in logged],
        "val_ema_loss": [line["val_ema_loss"] for line in logged],
        "test_scores": scores.ravel().tolist(),
        "weight_norms": [
            math.sqrt(sum(w.double().square().sum().item() for w in s.values())) for s in weights.values()
        ],
        "sha256": {key: digest(state) for key, state in weights.items()},
    }


def digest(state):
    """SHA-256 of names, types and bytes of a state dict."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def numerics():
    """What decides the last bits beside the code: MKL chooses its kernels by the processor, too."""
    try:
        about = Path("/proc/cpuinfo").read_text()
        processor = re.search(r"^model name\s*: (.*)$", about, re.MULTILINE)[1]
    except (OSError, TypeError):
        processor = platform.processor()
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "cpu_capability": capability, "processor": processor}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loss_curve")
    write_videos(folder / "data")
    return folder, train(folder / "data", folder / "straight")


def test_a_tiny_run_reproduces_the_stored_curve(straight):
    stored = json.loads(STORED.read_text())
    curve = straight[1]
    assert all(len(curve[name]) == len(stored["curve"][name]) for name in stored["curve"])
    if stored["numerics"] == numerics():
        assert curve == stored["curve"]
        return
    for name, values in stored["curve"].items():
        if name != "sha256":
            assert curve[name] == pytest.approx(values, **OTHER_MACHINE), name


def test_a_resumed_run_ends_in_the_same_place(straight):
    folder, curve = straight
    resumed = train(folder / "data", folder / "resumed", "--resume", str(folder / "straight" / "checkpoint-0.pth"))
    second_epoch = len(curve["loss"]) // 2
    for name in ("loss", "grad_norm"):
        assert resumed.pop(name) == curve[name][second_epoch:], name
    for name in ("train_loss", "val_loss", "val_ema_loss"):
        assert resumed.pop(name) == curve[name][1:], name
    assert resumed == {name: curve[name] for name in ("test_scores", "weight_norms", "sha256")}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        write_videos(Path(temporary) / "data")
        stored = {"numerics": numerics(), "curve": train(Path(temporary) / "data", Path(temporary) / "run")}
    STORED.write_text(json.dumps(stored, indent=1) + "\n")
