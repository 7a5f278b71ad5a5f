"""The folder for transformers works where nothing of this repository is."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_files import CLASSES, OBJECTIVES, moving_frames, save_checkpoint, save_checkpoint_of, write_moving_video
from numbered_videos import copy
from safetensors.torch import load_file
from video_files import turn_video

from datasets.clip_dataset import read_clips
from inference import load_predictor
from models import VideoMambaPro
from tools.export import main
from tools.transformers_folder.bundle import Bundle, BundleError, read_source

pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is not installed")
from generated_modules import SIZES, module_of  # noqa: E402

from tools.transformers_folder.folder import PROCESSING, check_model, export_folder  # noqa: E402

NAMES = [f"kind {label}" for label in range(CLASSES)]
ALONE = ("torch", "torchvision", "transformers", "av")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint, two videos and the exported folder."""
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "checkpoint.pth", class_names=NAMES)
    write_moving_video(folder / "video.mp4")
    write_moving_video(folder / "short.mp4", count=5)
    turn_video(write_moving_video(folder / "turned.mp4"), 90)
    copy(write_moving_video(folder / "long.mp4", count=60), folder / "cut.mp4", begin=0.9)
    words = [str(folder / "checkpoint.pth"), str(folder / "exported"), "--format", "transformers"]
    assert main(words) == 0
    for task in OBJECTIVES:
        save_checkpoint_of(task, folder / f"{task}.pth", class_names=NAMES)
        assert main([str(folder / f"{task}.pth"), str(folder / task), "--format", "transformers"]) == 0
    return folder


@pytest.fixture(scope="module")
def processing():
    return module_of(PROCESSING)


@pytest.mark.parametrize(
    ("sampling", "name"),
    [("dense", "video.mp4"), ("dense", "short.mp4"), ("sparse", "cut.mp4"), ("uniform", "turned.mp4")],
)
def test_the_processor_reads_what_the_test_reads(run, processing, sampling, name):
    predictor = load_predictor(run / "checkpoint.pth", device="cpu", sampling=sampling, read_timeout=0)
    processor = processing.VideoMambaProVideoProcessor(
        sampling=sampling, sampling_rate=2, segments=2, crops=3, num_frames=4, size={"height": 32, "width": 32}
    )
    path = str(run / name)
    clips = processor(path, return_tensors="pt")["pixel_values_videos"]
    wanted = read_clips(predictor.open(path), predictor.plan, np.random.default_rng(0)).transpose(1, 2)
    assert clips.shape == (1, 6, 4, 3, 32, 32)
    torch.testing.assert_close(clips[0], wanted, rtol=0, atol=1e-5)


def test_the_processor_takes_arrays_and_single_views(processing):
    processor = processing.VideoMambaProVideoProcessor(
        sampling="uniform", num_frames=4, size={"height": 32, "width": 48}
    )
    clips = processor([moving_frames(9, 64, 48), moving_frames(3, 64, 48)], return_tensors="pt")
    assert clips["pixel_values_videos"].shape == (2, 4, 3, 32, 48)


PROGRAM = """
import json, socket, sys

def refuse(*_):
    raise OSError("no network here")

socket.socket.connect = refuse
import torch
from transformers import AutoModelForVideoClassification, AutoVideoProcessor, pipeline

folder, video, short, again, multilabel, regression = sys.argv[1:]
others = {
    one: pipeline("video-classification", model=one, trust_remote_code=True)(video, top_k=7, function_to_apply=shown)
    for one, shown in ((multilabel, "sigmoid"), (regression, "none"))
}
for one in others:
    AutoModelForVideoClassification.from_pretrained(one, trust_remote_code=True).save_pretrained(one + "_again")
other_head = AutoModelForVideoClassification.from_pretrained(
    regression, num_labels=2, problem_type="multi_label_classification", ignore_mismatched_sizes=True,
    trust_remote_code=True,
)
other_head.save_pretrained(regression + "_other")
answers = pipeline("video-classification", model=folder, trust_remote_code=True)(video, top_k=5)
model = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True)
processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)
clips = torch.sin(torch.arange(2 * 4 * 3 * 32 * 32.0)).view(2, 4, 3, 32, 32)
before = model(clips).logits
batch = processor([video, short], segments=1, crops=1, return_tensors="pt")
optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.01), []
for _ in range(4):
    loss = model(**batch, labels=torch.tensor([1, 2])).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
model.save_pretrained(again)
processor.save_pretrained(again)
own = sorted({name.split(".")[0] for name in sys.modules} & {"models", "mamba", "datasets", "timm", "einops", "tools"})
after = model.eval()(clips).logits
print("RESULT" + json.dumps([answers, before.tolist(), losses, after.tolist(), own, list(others.values())]))
"""


@pytest.fixture(scope="module")
def outside(run, tmp_path_factory):
    """What a process prints that has torch, transformers and what they need, no network and not this repository."""
    home = tmp_path_factory.mktemp("outside")
    packages = home / "packages"
    packages.mkdir()
    for distribution in closure(ALONE):
        for top in {file.parts[0] for file in importlib.metadata.files(distribution) or () if file.parts[0] != ".."}:
            real = Path(importlib.metadata.distribution(distribution).locate_file(top))
            if real.exists() and not (packages / top).exists():
                (packages / top).symlink_to(real)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(packages),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home),
    }
    words = [str(run / "exported"), str(run / "video.mp4"), str(run / "short.mp4"), str(run / "again")]
    words += [str(run / task) for task in OBJECTIVES]
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, *words], cwd=home, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.partition("RESULT")[2])


def closure(names):
    """The distributions that `names` require, and theirs, as far as they are installed."""
    found, left = set(), list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            left += [re.match(r"[A-Za-z0-9._-]+", line)[0] for line in required if "extra ==" not in line]
    return found


def test_the_pipeline_gives_our_answer_anywhere(run, outside):
    answers, logits, _, _, own, _ = outside
    assert own == []
    wanted = load_predictor(run / "checkpoint.pth", device="cpu").predict(str(run / "video.mp4")).top(5)
    assert [answer["label"] for answer in answers] == [score.name for score in wanted]
    assert [answer["score"] for answer in answers] == pytest.approx([score.probability for score in wanted], abs=1e-5)
    clips = torch.sin(torch.arange(2 * 4 * 3 * 32 * 32.0)).view(2, 4, 3, 32, 32)
    model = load_predictor(run / "checkpoint.pth", device="cpu").model
    torch.testing.assert_close(torch.tensor(logits), model(clips.transpose(1, 2)), rtol=0, atol=1e-5)


def test_training_anywhere_lowers_the_loss_and_what_is_saved_is_loaded_here(run, outside):
    _, before, losses, after, _, _ = outside
    assert losses[-1] < losses[0] - 0.05
    model = VideoMambaPro.from_pretrained(run / "again")
    saved = load_file(run / "again" / "model.safetensors")
    assert all(torch.equal(tensor, saved["backbone." + name]) for name, tensor in model.state_dict().items())
    clips = torch.sin(torch.arange(2 * 4 * 3 * 32 * 32.0)).view(2, 4, 3, 32, 32)
    logits = model(clips.transpose(1, 2))
    torch.testing.assert_close(logits, torch.tensor(after), rtol=0, atol=1e-5)
    assert not torch.allclose(logits, torch.tensor(before), atol=1e-3)
    predictor = load_predictor(run / "again", device="cpu")
    assert predictor.label_names == tuple(NAMES) and predictor.views == 6


@pytest.mark.parametrize("task", OBJECTIVES)
def test_several_labels_and_numbers_are_answered_anywhere_as_here(task, run, outside):
    video = str(run / "video.mp4")
    wanted = load_predictor(run / f"{task}.pth", device="cpu", read_timeout=0).predict(video)
    answers = {answer["label"]: answer["score"] for answer in outside[-1][list(OBJECTIVES).index(task)]}
    expected = wanted.by_name() if task == "regression" else dict(zip(NAMES, wanted.probabilities, strict=True))
    assert answers == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for folder in (run / task, run / f"{task}_again"):
        got = load_predictor(folder, device="cpu", read_timeout=0).predict(video)
        assert str(got) == str(wanted), "threshold or statistics, names and numbers"
    card = (run / task / "README.md").read_text()
    assert {"multilabel": 'function_to_apply="sigmoid"', "regression": 'function_to_apply="none"'}[task] in card


def test_the_card_names_what_the_folder_was_run_with(run):
    (command,) = re.findall(r"^pip install (.+)$", (run / "exported" / "README.md").read_text(), re.MULTILINE)
    assert {re.match(r"\w+", word.strip('"'))[0] for word in command.split()} == set(ALONE)


def test_a_head_of_another_task_trained_anywhere_is_loaded_as_that_task(run, outside):
    predictor = load_predictor(run / "regression_other", device="cpu")
    assert predictor.task == "multilabel" and predictor.label_names == ("class 0", "class 1")
    assert predictor.objective.decision_threshold.isnan()


def test_what_the_generated_code_is_not(run, tmp_path, capsys, monkeypatch):
    class Another(VideoMambaPro):
        pass

    with pytest.raises(ValueError, match="knows VideoMambaPro with the mixer mamba, not Another"):
        check_model(Another(**SIZES))
    with pytest.raises(ValueError, match="no attentive pooler"):
        check_model(VideoMambaPro(**(SIZES | {"attentive_depth": 1})))
    with pytest.raises(ValueError, match="no stem"):
        check_model(VideoMambaPro(**(SIZES | {"stem": "test_resnet"})))
    with pytest.raises(ValueError, match="model of images"):
        check_model(VideoMambaPro(**(SIZES | {"num_frames": 1})))
    words = [str(run / "checkpoint.pth"), str(tmp_path / "new"), "--format", "transformers"]
    monkeypatch.setattr("tools.transformers_folder.folder.load_folder", lambda _: lambda clips: torch.zeros(CLASSES))
    assert main(words) == 1
    assert "it is not kept" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    windows = save_checkpoint(run / "windows.pth", window_seconds=4)
    assert main([str(windows), *words[1:]]) == 1
    assert "averages windows of 4 s" in capsys.readouterr().err
    (tmp_path / "new").write_text("")
    assert main(words) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is not an empty folder"):
        export_folder(run / "checkpoint.pth", tmp_path / "new", Namespace(label_names="", recipe=""))


def test_a_bundle_keeps_comments_and_renames_what_would_clash(tmp_path, monkeypatch):
    (tmp_path / "bundled_a.py").write_text("# why\ndef part(x):\n    return x + 1  # one\n")
    (tmp_path / "bundled_b.py").write_text(
        "from math import pi\nfrom bundled_a import part as other\n\n"
        "def part(x):\n    return other(x) * 2\n\nSIZE = 3\n"
    )
    (tmp_path / "bundled_entry.py").write_text(
        "from bundled_b import SIZE, part\n\n\ndef use(x):\n    return part(x) + SIZE + COUNT\n\n\nCOUNT = 1 + 1\n"
    )
    (tmp_path / "bundled_wrong.py").write_text("import bundled_a\n\n\ndef use(x):\n    return bundled_a.part(x)\n")
    monkeypatch.syspath_prepend(tmp_path)
    bundle = Bundle(["bundled_a", "bundled_b", "bundled_entry"], constants={("bundled_entry", "COUNT"): 40})
    bundle.add("bundled_entry")
    text, module = bundle.text('"""Head."""'), {}
    exec(text, module)
    assert module["use"](1) == 4 + 3 + 40
    assert "# why\ndef part" in text and "# one" in text and "pi" not in text
    with pytest.raises(BundleError, match="bundled_a"):
        Bundle(["bundled_a", "bundled_wrong"]).add("bundled_wrong")
    with pytest.raises((BundleError, ModuleNotFoundError)):
        read_source("bundled_nowhere")
