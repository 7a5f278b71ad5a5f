"""Datasets and loaders on real files: content of batches, distribution over ranks, unreadable videos."""

import logging

import numpy as np
import pytest
import torch
from data_flags import data_flags as arguments
from PIL import Image
from video_files import numbered_frames, write_folder, write_video

from datasets.build import build_dataset, build_loader
from datasets.clip_dataset import SampleKey
from datasets.presets import PRESETS
from datasets.readers import UnreadableVideoError, VideoFile
from datasets.sampling import dense_indices, sparse_indices, uniform_indices
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD

COUNT = 10
LABELS = [i % 3 for i in range(COUNT)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten videos of 20 frames, as files and as folders, with lists of both."""
    root = tmp_path_factory.mktemp("data")
    frames = numbered_frames(20, 32, 48)
    for i in range(COUNT):
        write_video(root / f"v {i}.mp4", frames)
        write_folder(root / f"f{i}", frames)
    for name in ("train", "val", "test"):
        (root / f"{name}.csv").write_text("".join(f"v {i}.mp4 {label}\n" for i, label in enumerate(LABELS)))
        (root / f"frames_{name}.csv").write_text("".join(f"f{i} 20 {label}\n" for i, label in enumerate(LABELS)))
    return root


def frame_lists(root):
    return [part for name in ("train", "val", "test") for part in (f"--{name}_list", str(root / f"frames_{name}.csv"))]


def shown(clips):
    """Identify the `numbered_frames` in normalised clips (..., C, T, H, W), as one list per clip."""
    level = clips.mean((-2, -1))[..., 0, :] * (255 * IMAGENET_STD[0]) + 255 * IMAGENET_MEAN[0]
    return torch.round((level - 20) / 3).int().tolist()


def batches(loader):
    return list(loader)


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("sampling", ["dense", "sparse", "uniform"])
def test_validation_reads_the_middle_clip_once(root, sampling, frames):
    args = arguments(root, "--sampling", sampling, *(frame_lists(root) if frames else []))
    dataset = build_dataset("validation", args)
    assert (len(dataset), dataset.num_classes) == (COUNT, 3)
    assert [(r.target, r.line) for r in dataset.records] == [(label, i + 1) for i, label in enumerate(LABELS)]
    got = batches(build_loader(dataset, "validation", args))
    expected = {
        "dense": dense_indices(20, 4, 2, mode="validation"),
        "sparse": sparse_indices(20, 4, mode="validation"),
        "uniform": uniform_indices(20, 4, mode="validation"),
    }[sampling].tolist()
    assert got[0]["clips"].shape == (4, 3, 4, 32, 32) and got[0]["clips"].dtype == torch.float32
    assert torch.cat([batch["indices"] for batch in got]).tolist() == list(range(COUNT))
    assert torch.cat([batch["targets"] for batch in got]).tolist() == LABELS
    for batch in got:
        assert batch["targets"].dtype == batch["indices"].dtype == torch.int64
        assert shown(batch["clips"]) == [expected] * len(batch["clips"])


@pytest.mark.parametrize("sampling", ["dense", "sparse", "uniform"])
def test_all_views_of_a_test_video_segment_by_segment_decoded_once(root, sampling, monkeypatch):
    args = arguments(root, "--sampling", sampling, "--test_num_segment", "2", "--test_num_crop", "3")
    dataset = build_dataset("test", args)
    reads = []
    read = VideoFile.read
    monkeypatch.setattr(VideoFile, "read", lambda self, indices: reads.append(indices) or read(self, indices))
    batch = next(iter(build_loader(dataset, "test", args)))
    assert batch["clips"].shape == (1, 6, 3, 4, 32, 32)
    assert batch["targets"].tolist() == [0] and batch["indices"].tolist() == [0]
    assert len(reads) == 1
    sample = {"dense": lambda k: dense_indices(20, 4, 2, mode="test", segment=k, num_segments=2)}
    sample["sparse"] = lambda k: sparse_indices(20, 4, mode="test", segment=k, num_segments=2)
    sample["uniform"] = lambda k: uniform_indices(20, 4, mode="test", segment=k, num_segments=2)
    expected = [sample[sampling](k).tolist() for k in range(2)]
    assert shown(batch["clips"][0]) == [expected[0]] * 3 + [expected[1]] * 3


def test_the_crops_of_a_view_are_left_middle_right(tmp_path):
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :, :, :] = (np.arange(64) * 4)[None, None, :, None]
    write_video(tmp_path / "v.mp4", frames)
    (tmp_path / "test.csv").write_text("v.mp4 0\n")
    args = arguments(tmp_path, "--nb_classes", "2", "--test_num_segment", "1", "--sampling", "uniform")
    clips = next(iter(build_loader(build_dataset("test", args), "test", args)))["clips"]
    level = clips[0, :, 0].mean((1, 2, 3)) * (255 * IMAGENET_STD[0]) + 255 * IMAGENET_MEAN[0]
    # the means of columns 0..31, 16..47 and 32..63
    assert torch.allclose(level, torch.tensor([62.0, 126.0, 190.0]), atol=2.5)


def test_repeated_augmentations_share_their_frames_and_stand_next_to_each_other(root, monkeypatch):
    args = arguments(root, "--num_sample", "3", "--reprob", "1")
    loader = build_loader(build_dataset("train", args), "train", args)
    reads = []
    read = VideoFile.read
    monkeypatch.setattr(VideoFile, "read", lambda self, indices: reads.append(indices) or read(self, indices))
    batch = next(iter(loader))
    assert len(reads) == 3
    assert batch["clips"].shape == (9, 3, 4, 32, 32)
    indices = batch["indices"].tolist()
    assert indices == [indices[0]] * 3 + [indices[3]] * 3 + [indices[6]] * 3 and len(set(indices)) == 3
    assert batch["targets"].tolist() == [LABELS[i] for i in indices]
    for i in range(0, 9, 3):
        assert not torch.equal(batch["clips"][i], batch["clips"][i + 1])


def test_repeats_show_the_same_frames(root):
    args = arguments(root, "--num_sample", "3")
    batch = next(iter(build_loader(build_dataset("train", args), "train", args)))
    numbers = shown(batch["clips"])
    assert numbers[0] == numbers[1] == numbers[2] and numbers[3] == numbers[4] == numbers[5]


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    got = batches(loader)
    return torch.cat([b["indices"] for b in got]).tolist(), torch.cat([b["clips"] for b in got])


def test_training_is_reproducible_whatever_the_number_of_workers(root):
    def loader(workers, seed=0):
        args = arguments(root, "--num_workers", str(workers), "--reprob", "0.5", seed=seed)
        return build_loader(build_dataset("train", args), "train", args)

    alone, helped = loader(0), loader(2)
    first = epoch_of(alone, 0)
    assert len(first[0]) == 9 and len(set(first[0])) == 9
    second = epoch_of(alone, 1)
    for epoch, expected in ((0, first), (1, second), (0, first)):
        found = epoch_of(helped, epoch)
        assert found[0] == expected[0] and torch.equal(found[1], expected[1])
    assert first[0] != second[0]
    assert epoch_of(loader(0, seed=1), 0)[0] != first[0]
    dataset = alone.dataset
    twice = [dataset[SampleKey(4, epoch)].clips for epoch in (0, 1)]
    assert not torch.equal(*twice) and torch.equal(twice[0], dataset[4].clips)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_share_the_records(root, world_size):
    args = arguments(root, "--batch_size", "2")
    train, validation = build_dataset("train", args), build_dataset("validation", args)
    seen, trained, lengths = [], [], set()
    for rank in range(world_size):
        loader = build_loader(validation, "validation", args, rank=rank, world_size=world_size)
        own_indices = [i for batch in loader for i in batch["indices"].tolist()]
        assert own_indices == list(range(rank, COUNT, world_size))
        seen += own_indices
        loader = build_loader(train, "train", args, rank=rank, world_size=world_size)
        loader.sampler.set_epoch(3)
        trained += [key.index for key in loader.sampler]
        lengths.add(len(loader))
    assert sorted(seen) == list(range(COUNT))
    assert len(set(trained)) == len(trained) == COUNT // world_size * world_size
    assert lengths == {COUNT // world_size // 2}


@pytest.fixture
def damaged(root, tmp_path):
    """Lists of which lines 2 and 5 name videos that cannot be read."""
    (tmp_path / "broken.mp4").write_text("not a video")
    lines = [f"{root}/v {i}.mp4 {label}" for i, label in enumerate(LABELS)]
    lines[1], lines[4] = "broken.mp4 1", "missing.mp4 1"
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    return tmp_path


def said_by_loader(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "datasets.loader"]


@pytest.mark.parametrize("mode", ["validation", "test"])
def test_evaluation_leaves_unreadable_videos_out_and_says_so(damaged, caplog, mode):
    args = arguments(damaged, "--batch_size", "1")
    loader = build_loader(build_dataset(mode, args), mode, args)
    with caplog.at_level(logging.WARNING, "datasets.loader"):
        for _ in range(2):
            got = batches(loader)
            assert len(got) == COUNT
            assert torch.cat([b["indices"] for b in got]).tolist() == [0, 2, 3, 5, 6, 7, 8, 9]
            assert [index for b in got for index, _ in b["unreadable"]] == [1, 4]
    views = (12,) if mode == "test" else ()
    assert got[1]["clips"].shape == (0, *views, 3, 4, 32, 32)
    assert got[1]["targets"].shape == got[1]["indices"].shape == (0,)
    reported = said_by_loader(caplog)
    assert len(reported) == 2
    assert (
        "left out" in reported[0]
        and "line 2" in reported[0]
        and "broken.mp4" in reported[0]
        and "not a video" in reported[0]
    )
    assert "line 5" in reported[1] and "missing.mp4" in reported[1] and "no such file" in reported[1]
    assert set(loader.unreadable) == {1, 4}


def test_strict_evaluation_refuses_unreadable_videos(damaged):
    for workers in ("0", "1"):
        args = arguments(damaged, "--strict_data", "--num_workers", workers)
        with pytest.raises(UnreadableVideoError, match=r"broken.mp4.*--strict_data"):
            batches(build_loader(build_dataset("validation", args), "validation", args))


def test_training_replaces_unreadable_videos_and_says_so(damaged, caplog):
    args = arguments(damaged, "--batch_size", "5", "--num_workers", "2")
    loader = build_loader(build_dataset("train", args), "train", args)
    with caplog.at_level(logging.WARNING, "datasets.loader"):
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            got = batches(loader)
            assert [len(b["clips"]) for b in got] == [5, 5]
            used = torch.cat([b["indices"] for b in got]).tolist()
            assert not {1, 4} & set(used)
            assert {1, 4} <= {index for b in got for index, _ in b["unreadable"]}
            assert torch.cat([b["targets"] for b in got]).tolist() == [LABELS[i] for i in used]
    reported = said_by_loader(caplog)
    assert len(reported) == 2 and all("replaced" in line for line in reported)


def test_training_without_a_readable_video_stops(tmp_path):
    (tmp_path / "a.mp4").write_text("not a video")
    (tmp_path / "train.csv").write_text("a.mp4 0\na.mp4 1\n")
    with pytest.raises(UnreadableVideoError, match=r"train.csv.*in a row.*not a video"):
        build_dataset("train", arguments(tmp_path))[0]


@pytest.fixture
def images(tmp_path):
    for i in range(6):
        (tmp_path / "class a").mkdir(exist_ok=True)
        Image.new("RGB", (50 + i, 40), (40 * i, 100, 200)).save(tmp_path / "class a" / f"{i}.png")
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").write_text("".join(f"class a/{i}.png {i % 2}\n" for i in range(6)))
    return tmp_path


def test_images_are_videos_of_one_frame(images, caplog):
    args = arguments(images, "--num_sample", "2", "--num_frames", "1")
    batch = next(iter(build_loader(build_dataset("train", args), "train", args)))
    assert batch["clips"].shape == (6, 3, 1, 32, 32)
    validation = build_dataset("validation", args)
    batch = next(iter(build_loader(validation, "validation", args)))
    assert batch["clips"].shape == (4, 3, 1, 32, 32)
    level = batch["clips"][:, 0].mean((1, 2, 3)) * (255 * IMAGENET_STD[0]) + 255 * IMAGENET_MEAN[0]
    assert torch.allclose(level, 40.0 * torch.arange(4), atol=0.6)
    with caplog.at_level(logging.WARNING, "datasets.build"):
        test = build_dataset("test", args)
    assert "so the validation list is tested" in caplog.text
    assert next(iter(build_loader(test, "test", args)))["clips"].shape[1:] == (1, 3, 1, 32, 32)


def test_images_are_refused_where_clips_have_several_frames(images):
    with pytest.raises(ValueError, match=r"val.txt is a list of images, .*; add --num_frames 1"):
        build_dataset("validation", arguments(images))


def test_image_lists_of_frame_folders(root):
    args = arguments(root, "--data_set", "ImageNet", "--num_frames", "1", *frame_lists(root))
    dataset = build_dataset("validation", args)
    assert dataset.num_classes == 1000
    assert shown(dataset[0].clips) == [[10]]


def test_the_number_of_classes(root):
    assert build_dataset("test", arguments(root, "--data_set", "HMDB51")).num_classes == 51
    assert build_dataset("test", arguments(root, "--nb_classes", "7")).num_classes == 7
    with pytest.raises(ValueError, match="label 2 is out of range"):
        build_dataset("test", arguments(root, "--nb_classes", "2"))
    with pytest.raises(ValueError, match="--nb_classes 7 contradicts --data_set SSV2, which has 174"):
        build_dataset("test", arguments(root, "--data_set", "SSV2", "--nb_classes", "7"))
    with pytest.raises(ValueError, match="unknown --data_set .*; choose from Kinetics"):
        build_dataset("test", arguments(root, "--data_set", "kinetix"))


def test_presets_have_the_published_sampling_and_class_counts():
    lvu = {"relationship": 4, "way_speaking": 5, "scene": 6, "director": 10, "genre": 4, "writer": 10, "year": 9}
    lvu |= {"like_ratio": 0, "view_count": 0}
    table = {name: (p.sampling, p.num_classes, p.hflip) for name, p in PRESETS.items() if p.kind is None}
    assert table == {
        "Kinetics": ("dense", 0, 0.5),
        "Kinetics_sparse": ("sparse", 0, 0.5),
        "K400": ("sparse", 400, 0.5),
        "SSV2": ("uniform", 174, 0.0),
        "UCF101": ("dense", 101, 0.5),
        "HMDB51": ("dense", 51, 0.5),
        "JHMDB": ("sparse", 21, 0.5),
        "Breakfast": ("sparse", 10, 0.5),
        "COIN": ("sparse", 180, 0.5),
        "custom": ("dense", 0, 0.5),
        "LVU": ("sparse", 0, 0.5),
        **{f"LVU-{task}": ("sparse", classes, 0.5) for task, classes in lvu.items()},
    }
    assert {p.window_seconds for name, p in PRESETS.items() if name.startswith("LVU")} == {60}
    assert (PRESETS["ImageNet"].kind, PRESETS["ImageNet"].num_classes) == ("image", 1000)


def test_something_something_is_never_mirrored(tmp_path):
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    frames[:, :, :] = (np.arange(32) * 7)[None, None, :, None]
    write_video(tmp_path / "1234.mp4", frames)
    (tmp_path / "train.csv").write_text("1234 5\n")

    def rises(*flags):
        dataset = build_dataset("train", arguments(tmp_path, *flags))
        clips = [dataset[SampleKey(0, epoch)].clips[0, 0, 0, 16] for epoch in range(30)]
        return np.mean([bool(row[-1] > row[0]) for row in clips])

    assert rises("--data_set", "SSV2") == 1.0
    assert 0.2 < rises("--data_set", "Kinetics", "--nb_classes", "9") < 0.8
    assert rises("--data_set", "SSV2", "--hflip", "1") == 0.0


def test_lists_that_are_not_there_are_told(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="pass --data_path DIR"):
        build_dataset("train", arguments(root, "--data_path", ""))
    (tmp_path / "val.csv").write_text("a.mp4 0\n")
    with pytest.raises(FileNotFoundError, match=r"no train.csv .*--nb_classes"):
        build_dataset("validation", arguments(tmp_path))
    args = arguments(root, "--data_root", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"none of the 10 files .*line 1: .*--data_root"):
        build_dataset("train", args)
    with pytest.raises(ValueError, match="set --batch_size to at most 5"):
        args = arguments(root, "--batch_size", "6")
        build_loader(build_dataset("train", args), "train", args, rank=0, world_size=2)
    with pytest.raises(ValueError, match="has 10 videos, fewer than the 11 processes .*start at most 10"):
        build_loader(build_dataset("train", args), "train", args, rank=0, world_size=11)


def test_labels_that_cannot_be_meant_are_told_before_a_head_is_built(tmp_path, caplog):
    for i in range(4):
        (tmp_path / f"{i}.mp4").write_text("-")
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text("0.mp4 1\n1.mp4 2\n2.mp4 3\n3.mp4 200000\n")
    for mode in ("train", "validation"):
        with pytest.raises(ValueError, match=r"train.csv, line 4: label 200000 implies 200001 classes"):
            build_dataset(mode, arguments(tmp_path))
    (tmp_path / "train.csv").write_text("0.mp4 1\n1.mp4 2\n2.mp4 3\n3.mp4 3\n")
    build_dataset("train", arguments(tmp_path))
    assert "1 of 4 classes have no clip: 0; do the labels start at 1?" in caplog.text
