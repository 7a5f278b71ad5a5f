"""--dry_run: all recipes build on small lists, and errors in lists are reported before anything is built."""

import re

import pytest
import torch
from PIL import Image
from video_files import numbered_frames, write_folder, write_video

import run_action_detection
import run_class_finetuning
import run_pretrain_imagenet
import run_pretrain_masked
from engines import dry_run as dry_run_module
from engines.configuration import parse_arguments
from engines.dry_run import dry_run, full_command
from engines.estimate import estimate_memory, measure_seconds_per_clip
from engines.recipe import load_recipe, recipe_names
from models.arguments import ModelSettings
from models.build import build_model
from models.complexity import measure_complexity

MODULES = (run_action_detection, run_class_finetuning, run_pretrain_imagenet, run_pretrain_masked)
TASKS = {module.SCRIPT: module.TASK for module in MODULES}
PARSERS = {script: task.get_parser for script, task in TASKS.items()}
VIDEOS = "run_class_finetuning.py"
SMALL = ["--model", "videomambapro_nano", "--input_size", "32", "--short_side_size", "32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with three videos, an image, and lists of both kinds; boxes with AVA's files."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(3):
        write_video(folder / f"v{i}.mp4", numbered_frames(6, 32, 48))
    Image.new("RGB", (40, 40)).save(folder / "i.jpg")
    (folder / "images").mkdir()
    for name in ("train", "val", "test"):
        (folder / f"{name}.csv").write_text("".join(f"v{i % 3}.mp4 {i % 3}\n" for i in range(10)))
        (folder / "images" / f"{name}.csv").write_text("i.jpg 0\ni.jpg 1\n")
    write_boxes(folder / "boxes")
    return folder


def write_boxes(folder, second=0):
    """AVA's files of the three videos: a person in each, two classes."""
    folder.mkdir()
    for name in ("train", "val"):
        (folder / f"{name}.csv").write_text("".join(f"v{i},{second},.1,.2,.5,.9,{5 + i % 2},0\n" for i in range(3)))
    (folder / "val_predicted_boxes.csv").write_text("v0,0,.1,.2,.5,.9,,0.9\nv1,0,.1,.2,.5,.8,,0.85\n")
    (folder / "label_map.pbtxt").write_text('item { name: "run" id: 5 }\nitem { name: "sit" id: 6 }\n')


def run(words, script=VIDEOS, timeout="0", **options):
    """Without the process that guards against hanging decoders, unless there is a `timeout`."""
    parser = PARSERS[script]()
    here = ["--dry_run", "--device", "cpu", "--num_workers", "0", "--read_timeout", timeout]
    return dry_run(TASKS[script], parse_arguments(parser, [*words, *here], script=script), **options)


def words_for(data, name):
    script = load_recipe(name).script
    folders = {
        VIDEOS: data,
        run_pretrain_imagenet.SCRIPT: data / "images",
        run_action_detection.SCRIPT: data / "boxes",
        run_pretrain_masked.SCRIPT: data,
    }
    probe = ["--probe_list", str(data / "val.csv")] if script == run_pretrain_masked.SCRIPT else []
    return ["--recipe", name, "--data_path", str(folders[script]), "--data_root", str(data), *probe], script


RECIPES = [name for name in recipe_names() if not name.endswith("/finetune")]
# The first recipe of each script and network is built whole, and so is what starts from a file; the others have the
# same blocks, of which two are enough.
WHOLE = {
    (recipe.script, recipe.flags["model"], recipe.flags.get("finetune") and recipe.name): recipe.name
    for recipe in map(load_recipe, reversed(RECIPES))
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(data, name, caplog, monkeypatch):
    # Decoding is the same for all of them and tried below; one picture of every resolution would take minutes.
    monkeypatch.setattr("engines.list_check._try_one", lambda *_: None)
    words, script = words_for(data, name)
    few_blocks = [] if name in WHOLE.values() else ["--depth", "2"]
    with caplog.at_level("INFO"):
        assert run([*words, *few_blocks], script, measure=False) == 0
    assert "estimate: " in caplog.text and "dry run: no faults" in caplog.text


@pytest.mark.slow
def test_it_ends_in_the_estimate(data, caplog):
    words, script = words_for(data, "k400/tiny_f16_res224")
    with caplog.at_level("INFO"):
        assert run([*words, *SMALL], timeout="60") == 0
    text = caplog.text
    assert re.search(r"estimate: .* hours on 1 process\(es\) like this one \(cpu\)", text)
    assert "shape of the first clips: (2, 3, 16, 32, 32)" in text
    assert "shape of the first clips: (12, 3, 16, 32, 32)" in text
    assert "3 file(s) of" in text and "are also in the training list, the first in line 1" in text
    assert "--lr 0.0002 is for 256 clips per step; at 20 clips per step this is 1.5625e-05" in text
    assert "70 epochs x 1 steps x 20 clips" in text
    # 70 epochs x 10 videos x 2 samples, 70 x 10 validated, 10 videos x 12 views
    assert "(1400 clips trained + (700 validated + 120 views tested) x 0.33 (forward))" in text


@pytest.mark.slow
def test_frozen_blocks_take_less_time_and_memory(data, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(dry_run_module, "measure_seconds_per_clip", lambda *_: 3600.0)
    words, _ = words_for(data, "k400/tiny_f16_res224")
    words += SMALL
    model = build_model(ModelSettings("videomambapro_nano", dict(img_size=32, num_frames=16)), 400)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    hours, memory = [], []
    for part in ((), ("--freeze", "3"), ("--freeze", "all")):
        caplog.clear()
        with caplog.at_level("INFO"):
            assert run([*words, "--finetune", str(tmp_path / "weights.pth"), *part]) == 0
        hours.append(float(re.search(r"estimate: ([\d.e+]+) hours on 1", caplog.text)[1]))
        memory.append(float(re.search(r"clips x (\d+) MiB", caplog.text)[1]))
    # 1400 passes; a third of each is forward, and half or none of the blocks have a backward pass
    evaluated = (700 + 120) / 3
    assert hours == pytest.approx([1400 + evaluated, 1400 * 2 / 3 + evaluated, 1400 / 3 + evaluated], rel=5e-3)
    assert memory == sorted(memory, reverse=True) and memory[2] < memory[0] / 10


def test_a_dry_run_of_a_detector(data, caplog):
    words, script = words_for(data, "ava/tiny_f8_res224")
    small = [*SMALL, "--time_pool", "concat"]
    with caplog.at_level("INFO"):
        assert run([*words, *small, "--train_short_side", "32", "40"], script) == 0
    assert "shape of the first clips: (1, 3, 8, 32, 32)" in caplog.text, "training"
    assert "shape of the first clips: (1, 3, 8, 32, 48)" in caplog.text, "the whole picture"
    assert "train: 3 seconds with 3 boxes of the ground truth, 2 classes" in caplog.text
    assert "30 epochs x 1 steps x 3 clips" in caplog.text
    assert "(90 clips trained + (90 validated + 3 views tested) x 0.33 (forward))" in caplog.text


def test_a_dry_run_of_a_detector_names_movies_that_are_not_there_once(data, tmp_path, caplog):
    words, script = words_for(data, "ava/tiny_f8_res224")
    write_boxes(tmp_path / "boxes")
    for name in ("train", "val"):
        with open(tmp_path / "boxes" / f"{name}.csv", "a", encoding="utf-8") as file:
            file.writelines(f"gone,{second},.1,.2,.5,.9,5,0\n" for second in (3, 4))
    assert run([*words, "--data_path", str(tmp_path / "boxes")], script) == 1
    assert f"train.csv, line 4: {data / 'gone'} does not exist" in caplog.text
    assert "2 fault(s); nothing was built" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("gone.mp4 1", r"train.csv, line 2: .*gone.mp4 does not exist"),
        ("v0.mp4 400", r"(?s)train.csv.*line 2: label 400 is out of range: 400 classes"),
        ("v0.mp4,1", r"(?s)train.csv.*line 2: .*v0.mp4,1"),
        ("v0.mp4", r"(?s)train.csv.*line 2: there is no label"),
    ],
)
def test_faults_of_a_list_are_told_before_anything_is_built(data, tmp_path, caplog, monkeypatch, line, reported):
    monkeypatch.setattr(dry_run_module, "build_model", lambda *_: pytest.fail("built"))
    train = tmp_path / "train.csv"
    train.write_text(f"v0.mp4 0\n{line}\nv1.mp4 1\n")
    words, _ = words_for(data, "k400/tiny_f8_res224")
    assert run([*words, *SMALL, "--train_list", str(train)]) == 1
    assert re.search(reported, caplog.text)
    assert "nothing was built" in caplog.text


def test_all_missing_files_and_all_lists_are_told_at_once(data, tmp_path, caplog):
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text("v0.mp4 0\n" + "".join(f"{name}{i}.mp4 2\n" for i in range(3)))
    words, _ = words_for(data, "custom/tiny_f8_res224")
    words += ["--train_list", str(tmp_path / "train.csv"), "--val_list", str(tmp_path / "val.csv")]
    assert run([*words, *SMALL]) == 1
    for name in ("train", "val"):
        for i in range(3):
            assert f"{name}.csv, line {i + 2}: {data / f'{name}{i}.mp4'} does not exist" in caplog.text
    assert "6 fault(s)" in caplog.text


def test_an_empty_file_is_a_fault(data, tmp_path, caplog):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "train.csv").write_text(f"v0.mp4 0\n{tmp_path / 'empty.mp4'} 1\nv1.mp4 1\n")
    words, _ = words_for(data, "custom/tiny_f8_res224")
    assert run([*words, *SMALL, "--train_list", str(tmp_path / "train.csv")]) == 1
    assert f"train.csv, line 2: {tmp_path / 'empty.mp4'} is empty" in caplog.text
    assert "train.csv: 1 of 3 files checked are missing or empty; line 2" in caplog.text


def test_a_frame_folder_with_fewer_frames_than_listed_is_told(data, tmp_path, caplog):
    write_folder(tmp_path / "clip", numbered_frames(4, 32, 32))
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.csv").write_text("clip 4 0\nclip 5 1\n")
    words = ["--recipe", "custom/tiny_f8_res224", "--data_path", str(tmp_path), "--data_root", str(tmp_path)]
    assert run([*words, *SMALL]) == 1
    assert re.search(r"train.csv, line 2: the last of 5 frames of .*clip is missing", caplog.text)
    assert ", line 1: the" not in caplog.text


def test_the_batch_is_that_of_the_processes_asked_for(data, caplog):
    words, _ = words_for(data, "custom/tiny_f8_res224")
    parser = PARSERS[VIDEOS]()
    args = parse_arguments(parser, [*words, "--dry_run", "16", "--device", "cpu"], script=VIDEOS)
    assert (args.batch_size, args.update_freq, args.global_batch) == (4, 1, 64)


def test_the_command_says_what_the_recipe_says(data):
    words, script = words_for(data, "imagenet/middle_res448")
    args = parse_arguments(PARSERS[script](), [*words, "--no-masked_backward", "--no_bf16"], script=script)
    command = full_command(args, PARSERS[script](), script).split()
    again = parse_arguments(PARSERS[script](), command[2:], script=script)
    differing = {name for name, value in vars(args).items() if getattr(again, name) != value}
    assert differing == {"recipe"}


def test_memory_is_counted_from_parameters_and_clips():
    parser = PARSERS[VIDEOS]()
    args = parse_arguments(
        parser,
        ["--model", "videomambapro_nano", "--input_size", "32", "--batch_size", "3", "--no_bf16"],
        script=VIDEOS,
    )
    model = build_model(ModelSettings.from_flags(args), 5)
    complexity = measure_complexity(model, bf16=False)
    saved, seen = 0, {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor):
        nonlocal saved
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            saved += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model.train()(torch.zeros(1, 3, 8, 32, 32))
    assert complexity.activation_bytes == pytest.approx(saved, rel=0.05), "what a real forward pass keeps"
    assert logits.requires_grad
    total, _ = estimate_memory(complexity, args)
    assert total == 16 * sum(p.numel() for p in model.parameters()) + 6 * complexity.activation_bytes


def test_the_measurement_grows_with_depth_and_frames(monkeypatch):
    args = parse_arguments(
        PARSERS[VIDEOS](), ["--model", "videomambapro_nano", "--input_size", "32", "--num_frames", "64"], script=VIDEOS
    )
    model = build_model(ModelSettings.from_flags(args), 5)
    complexity = measure_complexity(model)
    steps = []

    def timed(config, clips, *_):
        steps.append((config.depth, config.num_frames, clips))
        return 0.5 + 0.25 * config.depth * config.num_frames * clips

    monkeypatch.setattr("engines.estimate._time_step", timed)
    monkeypatch.setattr("engines.estimate._MEASURED_FLOPS", {"cpu": 10 * 3 * complexity.flops / 6 / 64 * 4 * 3})
    seconds = measure_seconds_per_clip(model.config, complexity, 8, torch.device("cpu"), False)
    assert steps == [(1, 10, 1), (3, 10, 1)]
    assert seconds == pytest.approx((0.5 + 0.25 * 6 * 10) * 6.4)
