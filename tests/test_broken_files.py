"""Broken files of every kind in a list: the run completes, and each is reported once and correctly."""

import json
import logging
import re
from pathlib import Path

import av
import pytest
import torch
from data_flags import data_flags
from forked import run_script
from video_files import numbered_frames, write_folder, write_video

from datasets.build import build_dataset, build_loader
from datasets.readers import UnreadableVideoError
from engines.logs import setup_logging

GOOD, FOLDERS = 7, 6  # which fill training batches of 2 without a remainder
SAID = {
    "truncated.mp4": "not a video, or damaged",
    "empty.mp4": "the file is empty",
    "text.mp4": "not a video, or damaged",
    "without frames.mp4": "not a video, or damaged",
    "missing.mp4": "there is no such file",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Alternating good and broken videos with lists, and frame folders, one of which lacks a frame."""
    root = tmp_path_factory.mktemp("data")
    frames = numbered_frames(12, 32, 48)
    for i in range(GOOD):
        write_video(root / f"{i}.mp4", frames)
    for i in range(FOLDERS):
        write_folder(root / f"folder{i}", frames)
    (root / "folder2" / "img_00007.jpg").unlink()
    # an index at the end, which is then lost
    write_video(root / "whole.mov", frames)
    (root / "truncated.mp4").write_bytes((root / "whole.mov").read_bytes()[:-400])
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("not a video\n" * 99)
    with av.open(str(root / "without frames.mp4"), "w") as container:
        container.add_stream("libx264", rate=25)
        container.start_encoding()
    good = [f"{i}.mp4" for i in range(GOOD)]
    names = [name for pair in zip(good, SAID, strict=False) for name in pair] + good[len(SAID) :]
    for part in ("train", "val", "test"):
        (root / f"{part}.csv").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(names)))
        (root / f"frames_{part}.csv").write_text("".join(f"folder{i} 12 {i % 2}\n" for i in range(FOLDERS)))
    return root


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("mode", ["train", "validation", "test"])
def test_each_is_named_once_and_none_counted_as_another(root, caplog, mode, frames):
    flags = ["--batch_size", "2", "--sampling", "uniform", "--num_frames", "12"]
    if frames:
        flags += [part for m in ("train", "val", "test") for part in (f"--{m}_list", str(root / f"frames_{m}.csv"))]
    loader = build_loader(build_dataset(mode, data_flags(root, *flags)), mode, data_flags(root, *flags))
    records = loader.dataset.records
    broken = {2: "img_00007.jpg is missing"} if frames else {}
    broken |= {i: SAID[Path(r.path).name] for i, r in enumerate(records) if Path(r.path).name in SAID}
    assert len(broken) == (1 if frames else 5)
    with caplog.at_level(logging.WARNING, "datasets.loader"):
        for _ in range(2):
            batches = list(loader)
    reported = [record.getMessage() for record in caplog.records if record.name == "datasets.loader"]
    assert len(reported) == len(broken)
    for index, reason in broken.items():
        (line,) = [line for line in reported if records[index].path in line]
        assert reason in line and f"line {index + 1}" in line
    read = torch.cat([batch["indices"] for batch in batches]).tolist()
    assert not broken.keys() & set(read)
    assert torch.cat([batch["targets"] for batch in batches]).tolist() == [records[i].target for i in read]
    if mode == "train":
        assert len(read) == len(records)
    else:
        assert read == [i for i in range(len(records)) if i not in broken]
        strict = data_flags(root, *flags, "--strict_data")
        with pytest.raises(UnreadableVideoError, match="--strict_data is set"):
            list(build_loader(build_dataset(mode, strict), mode, strict))


@pytest.mark.parametrize("guard", ["0", "60"])
@pytest.mark.parametrize("mode", ["train", "validation", "test"])
def test_pictures_too_long_to_resize_are_reported(tmp_path, mode, guard):
    """Resized by their shorter side, they would become 32 x 256000."""
    good, long = numbered_frames(4, 32, 48), numbered_frames(4, 2, 16000)
    folders = [write_folder(tmp_path / f"{i}", long if i == 1 else good) for i in range(3)]
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.csv").write_text("".join(f"{folder.name} 4 0\n" for folder in folders))
    flags = data_flags(tmp_path, "--read_timeout", guard, "--nb_classes", "2")
    loader = build_loader(build_dataset(mode, flags), mode, flags)
    read = torch.cat([batch["indices"] for batch in loader]).tolist()
    assert 1 not in read and len(read) == (3 if mode == "train" else 2)
    assert "16000 x 2 pixels are longer than 32 times" in loader.unreadable[1]


@pytest.mark.parametrize("guard", ["0", "60"])
def test_whatever_a_damaged_picture_raises_does_not_end_the_epoch(tmp_path, guard):
    for i in range(3):
        write_folder(tmp_path / f"{i}", numbered_frames(4, 32, 48))
    (tmp_path / "1" / "img_00002.jpg").write_bytes(b"qoif\0\0\0\x40\0\0\0\x40\3\0")
    for part in ("train", "val"):
        (tmp_path / f"{part}.csv").write_text("".join(f"{i} 4 0\n" for i in range(3)))
    flags = data_flags(tmp_path, "--read_timeout", guard, "--nb_classes", "2", "--sampling", "uniform")
    loader = build_loader(build_dataset("train", flags), "train", flags)
    assert sum(len(batch["targets"]) for batch in loader) == 3
    # IndexError or ValueError, by the version of Pillow
    assert re.search(r"img_00002.jpg is not an image, or damaged \(\w+Error", loader.unreadable[1])


def test_every_rank_names_its_own_broken_videos(root, capfd, monkeypatch):
    # The handler made here writes to a stream that ends with this test.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    flags = data_flags(root)
    named = ""
    for rank in (0, 1):
        setup_logging(rank)
        list(build_loader(build_dataset("test", flags), "test", flags, rank=rank, world_size=2))
        printed = capfd.readouterr().err
        assert printed, f"rank {rank} has broken videos"
        named += printed
    assert all(named.count(f"{name}:") == 1 for name in SAID)


def run(root, output, *flags):
    small = ["--model", "videomambapro_nano", "--input_size", "32", "--short_side_size", "32", "--num_frames", "2"]
    small += ["--batch_size", "6", "--num_workers", "1", "--num_sample", "1", "--epochs", "1", "--device", "cpu"]
    small += ["--test_num_segment", "1", "--test_num_crop", "1", "--read_timeout", "60", "--sampling", "uniform"]
    where = ["--data_path", str(root), "--data_root", str(root), "--output_dir", str(output), "--seed", "1"]
    return run_script("run_class_finetuning.py", *small, *where, *flags, folder=output)


def test_a_run_ends_and_its_results_name_the_broken(root, tmp_path):
    status, printed = run(root, tmp_path)
    assert status == 0, printed[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["videos"] == GOOD
    assert sorted(Path(video["path"]).name for video in results["excluded"]) == sorted(SAID)
    epoch = json.loads((tmp_path / "log.txt").read_text().splitlines()[0])
    assert epoch["train_unreadable"] == len(SAID) and epoch["val_excluded"] == len(SAID)
    for name in SAID:
        lines = [line for line in printed.splitlines() if f"{name}:" in line]
        assert len(lines) == 3, "once each in training, validation and test"
    status, printed = run(root, tmp_path, "--eval", "--strict_data")
    assert status != 0 and "--strict_data is set" in printed
