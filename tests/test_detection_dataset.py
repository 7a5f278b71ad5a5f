"""Clips around seconds of movies and frame folders, with their boxes, and the batches of them."""

import logging
from itertools import islice

import numpy as np
import pytest
import torch
from detection_files import IDS, painted, small_settings, write_label_map, write_lines, write_scenes
from video_files import numbered_frames, write_folder, write_video

from datasets.clip_dataset import SampleKey
from datasets.detection.build import build_detection_dataset, build_detection_loader

SHAPES = {
    "a": (96, 128),
    "b": (96, 128),
    "c": (128, 96),
    "d": (96, 128),
    "e": (80, 80),
    "f": (96, 128),
    "g": (128, 96),
}


def grey_levels(clips):
    """Mean grey level 0..255 of each frame of normalised clips (..., 3, T, H, W): (..., T)."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1, 1)
    return 255 * (clips * std + mean).mean(dim=(-4, -2, -1))


def shown_numbers(clips):
    """Read off which of `numbered_frames` the frames of a clip are."""
    return torch.round((grey_levels(clips) - 20) / 3).int().tolist()


@pytest.fixture
def scenes(tmp_path):
    write_scenes(tmp_path, SHAPES, "train")
    return write_scenes_again(tmp_path)


def write_scenes_again(folder):
    """Validate on the training scenes."""
    for name in ("", "_predicted_boxes"):
        (folder / f"val{name}.csv").write_text((folder / f"train{name}.csv").read_text())
    return folder


def test_a_batch_for_training(scenes):
    settings = small_settings(scenes)
    dataset = build_detection_dataset("train", settings)
    for batch in build_detection_loader(dataset, "train", settings):
        assert batch["clips"].shape == (2, 3, 8, 64, 64) and batch["clips"].dtype == torch.float32
        assert len(batch["targets"]) == 2 and "boxes" not in batch
        for index, target in zip(batch["indices"].tolist(), batch["targets"], strict=True):
            record = dataset.records[index]
            n = len(target["boxes"])
            assert 1 <= n <= len(record.boxes) and target["boxes"].dtype == torch.float32
            assert target["boxes"].min() >= 0 and target["boxes"].max() <= 64
            assert target["scores"].tolist() == [1.0] * n and target["written"].dtype == torch.float64
            for written, labels in zip(target["written"].numpy(), target["labels"].tolist(), strict=True):
                person = record.boxes.tolist().index(written.tolist())
                assert labels == [float(i in record.target["labels"][person]) for i in IDS]


def test_boxes_are_where_the_painted_persons_are_in_the_batch(scenes):
    settings = small_settings(scenes, box_jitter=0.0)
    for mode in ("train", "test"):
        dataset = build_detection_dataset(mode, settings)
        for batch in build_detection_loader(dataset, mode, settings):
            for clip, target in zip(batch["clips"], batch["targets"], strict=True):
                bright = clip[:, 4].mean(0) > 0
                covered = torch.zeros_like(bright)
                for x1, y1, x2, y2 in target["boxes"].tolist():
                    inside = bright[int(np.ceil(y1)) : int(y2), int(np.ceil(x1)) : int(x2)]
                    assert inside.float().mean() > 0.9 or inside.numel() < 100
                    covered[max(0, int(y1) - 1) : int(y2) + 2, max(0, int(x1) - 1) : int(x2) + 2] = True
                assert not (bright & ~covered).any()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_reads_every_second_and_box_once(scenes, processes):
    settings = small_settings(scenes)
    dataset = build_detection_dataset("test", settings)
    seen = []
    for rank in range(processes):
        for batch in build_detection_loader(dataset, "test", settings, rank=rank, world_size=processes):
            assert len(batch["clips"]) == len(batch["targets"]) == len(batch["indices"]) <= 3
            for index, target in zip(batch["indices"].tolist(), batch["targets"], strict=True):
                seen += [(dataset.records[index].video, *box) for box in target["written"].tolist()]
    rows = (scenes / "val_predicted_boxes.csv").read_text().splitlines()
    wanted = [(row.split(",")[0], *map(float, row.split(",")[2:6])) for row in rows]
    assert sorted(seen) == sorted(wanted) and len(seen) == 10


def test_a_clip_does_not_depend_on_its_batch(scenes):
    alone, together = small_settings(scenes, batch_size=1), small_settings(scenes, batch_size=5)
    dataset = build_detection_dataset("test", alone)
    clips = {}
    for settings in (alone, together):
        for batch in build_detection_loader(dataset, "test", settings):
            for index, clip, target in zip(batch["indices"].tolist(), batch["clips"], batch["targets"], strict=True):
                first, boxes = clips.setdefault(index, (clip, target["boxes"]))
                assert torch.equal(first, clip) and torch.equal(boxes, target["boxes"])
    assert {tuple(clip.shape[2:]) for clip, _ in clips.values()} == {(64, 80), (80, 64), (64, 64)}


def test_samples_depend_on_seed_and_epoch_and_not_on_workers(scenes):
    dataset = build_detection_dataset("train", small_settings(scenes))
    key = SampleKey(3, epoch=2)
    first, again, later = dataset[key], dataset[key], dataset[SampleKey(3, epoch=3)]
    assert torch.equal(first.clips, again.clips) and torch.equal(first.target["boxes"], again.target["boxes"])
    assert not torch.equal(first.target["boxes"], later.target["boxes"])
    settings = small_settings(scenes, num_workers=1, read_timeout=30.0)
    there = build_detection_dataset("train", settings)
    for batch in build_detection_loader(there, "train", settings):
        for index, clip, target in zip(batch["indices"].tolist(), batch["clips"], batch["targets"], strict=True):
            assert torch.equal(clip, dataset[index].clips[0])
            assert torch.equal(target["boxes"], dataset[index].target["boxes"])


def test_normalising_later_gives_the_same_clips(scenes):
    early, late = small_settings(scenes), small_settings(scenes, gpu_transforms=True)
    from datasets.collate import clips_on

    for mode in ("train", "test"):
        batches = [
            list(build_detection_loader(build_detection_dataset(mode, settings), mode, settings))
            for settings in (early, late)
        ]
        for one, other in zip(*batches, strict=True):
            assert other["clips"].dtype == torch.uint8
            assert torch.equal(clips_on("cpu", one), clips_on("cpu", other))


def test_crops_drawn_again_are_counted_in_the_log(tmp_path, caplog):
    write_label_map(tmp_path)
    write_folder(tmp_path / "media" / "a", painted((64, 256), np.zeros((0, 4))))
    rows = [f"a,{second},0.0,0.0,0.03,0.1,12" for second in (0, 1)]
    write_lines(tmp_path / "train.csv", *rows)
    settings = small_settings(tmp_path, batch_size=1)
    loader = build_detection_loader(build_detection_dataset("train", settings), "train", settings)
    with caplog.at_level(logging.INFO):
        counts = []
        for epoch in range(4):
            loader.sampler.set_epoch(epoch)
            # As training does, which never asks for what follows the last batch.
            counts.append(sum(batch.get("redrawn", 0) for batch in islice(loader, len(loader))))
    assert 0 < sum(counts) <= 8
    logged = [int(record.message.split()[0]) for record in caplog.records if "cropped a second time" in record.message]
    assert logged == [count for count in counts if count]


def test_unreadable_seconds_are_replaced_in_training_and_left_out_in_evaluation(scenes):
    (scenes / "media" / "b" / "b_000005.jpg").write_bytes(b"no picture")
    with open(scenes / "val_predicted_boxes.csv", "a") as file:
        file.write("a,3,0.1,0.1,0.5,0.5,,0.9\n")  # the folder has seconds 0 and 1 only
    settings = small_settings(scenes)
    train = build_detection_dataset("train", settings)
    sample = train[1]
    assert sample.index != 1 and "b_000005.jpg is not an image" in sample.unreadable[0][1]
    assert (
        sample.target["written"].tolist() == train.records[sample.index].boxes[: len(sample.target["boxes"])].tolist()
    )
    dataset = build_detection_dataset("test", settings)
    loader = build_detection_loader(dataset, "test", settings)
    read = [index for batch in loader for index in batch["indices"].tolist()]
    assert len(read) == len(dataset) - 2 == 6
    missing = [dataset.records[index] for index in loader.unreadable]
    assert {(record.video, record.second) for record in missing} == {("b", 1), ("a", 3)}
    reasons = " ".join(loader.unreadable.values())
    assert "it has no second 3, only 0 to 2" in reasons and "val.csv, line 3" in reasons


def test_an_evaluation_of_which_nothing_can_be_read_gives_empty_batches(scenes):
    settings = small_settings(scenes, start_second=500)
    dataset = build_detection_dataset("test", settings)
    batches = list(build_detection_loader(dataset, "test", settings))
    assert all(len(batch["clips"]) == len(batch["targets"]) == 0 for batch in batches)
    assert sum(len(batch["unreadable"]) for batch in batches) == len(SHAPES)


@pytest.mark.parametrize("template", ["img_{:05}.jpg", "movie_{:06}.jpg", None])
def test_folders_begin_with_their_lowest_number_whatever_the_names(tmp_path, template):
    write_label_map(tmp_path)
    frames = numbered_frames(40)
    write_folder(tmp_path / "media" / "movie", frames, template or "movie_{:06}.jpg")
    write_lines(tmp_path / "train.csv", "movie,0903,0.1,0.1,0.5,0.5,7")
    settings = small_settings(
        tmp_path, filename_tmpl=template, fps=5.0, start_second=None, num_frames=4, sampling_rate=2
    )
    sample = build_detection_dataset("train", settings)[0]
    assert not sample.unreadable
    # from second 900 on at 5 a second, the key is frame 15
    assert shown_numbers(sample.clips[0]) == [11, 13, 15, 17]


def test_wrong_names_of_frames_are_reported_with_the_right_ones(tmp_path):
    write_label_map(tmp_path)
    write_folder(tmp_path / "media" / "movie", numbered_frames(10), "movie_{:06}.jpg")
    write_lines(tmp_path / "val.csv", "movie,1,0.1,0.1,0.5,0.5,7")
    settings = small_settings(tmp_path, filename_tmpl="img_{:05}.jpg", eval_boxes="ground_truth")
    ((_, message),) = build_detection_dataset("test", settings)[0].unreadable
    assert "no frames named img_{:05}.jpg; --filename_tmpl movie_{:06}.jpg fits" in message


def test_movies_are_read_by_time_whatever_their_rate(tmp_path):
    """Key frame and steps of a movie of 20 frames a second, read as if it had 5, and of one that begins at 900 s."""
    write_label_map(tmp_path)
    (tmp_path / "media").mkdir()
    write_video(tmp_path / "media" / "movie.mkv", numbered_frames(60), rate=20)
    write_lines(tmp_path / "val.csv", "movie,0001,0.1,0.1,0.5,0.5,7", "movie,0002,0.1,0.1,0.5,0.5,7")
    settings = small_settings(tmp_path, eval_boxes="ground_truth", fps=5.0, start_second=None, num_frames=4)
    dataset = build_detection_dataset("test", settings)
    assert shown_numbers(dataset[0].clips[0]) == [12, 16, 20, 24]
    assert shown_numbers(dataset[1].clips[0]) == [32, 36, 40, 44]
    write_lines(tmp_path / "val.csv", "movie,0901,0.1,0.1,0.5,0.5,7")
    settings = small_settings(tmp_path, eval_boxes="ground_truth", fps=5.0, start_second=900, num_frames=4)
    assert shown_numbers(build_detection_dataset("test", settings)[0].clips[0]) == [12, 16, 20, 24]
