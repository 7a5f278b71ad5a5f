"""--steps: runs of so many optimizer steps, whatever the length of the list."""

from collections import Counter

import pytest
from engine_standins import make_args
from PIL import Image

from datasets.arguments import DataSettings
from datasets.balanced_sampler import BalancedSampler
from datasets.build import build_dataset, build_loader
from datasets.loader import TrainSampler
from engines.batch import fit_batch_to_list
from engines.train import updates_per_epoch


@pytest.fixture
def images(tmp_path):
    """A list of five images in three classes."""
    for i in range(5):
        Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / f"{i}.png")
    (tmp_path / "train.csv").write_text("".join(f"{i}.png {i % 3}\n" for i in range(5)))
    return dict(
        data_path=str(tmp_path), data_root=str(tmp_path), input_size=16, num_frames=1, num_workers=0, num_sample=1
    )


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("epochs", [1, 4])
def test_a_short_list_is_repeated_and_a_long_one_cut(images, epochs, world_size):
    for steps, batch in ((12, 4), (5, 1)):
        settings = DataSettings(**images, steps=steps, epochs=epochs, update_freq=2, batch_size=batch)
        train = build_dataset("train", settings)
        loader = build_loader(train, "train", settings, rank=0, world_size=world_size)
        done = epochs * updates_per_epoch(loader, 2)
        assert steps <= done < steps + epochs


def test_every_video_comes_as_often_and_each_time_with_other_random_numbers():
    ranks = [TrainSampler(7, rank=rank, world_size=2, seed=1, records=70) for rank in range(2)]
    keys = [key for sampler in ranks for key in sampler]
    assert set(Counter(key.index for key in keys).values()) == {10}
    assert len(set(keys)) == len(keys) == 70
    first = [key.index for key in ranks[0]][:3] + [key.index for key in ranks[1]][:3]
    assert len(set(first)) == 6, "no video comes again before the others have"


def test_without_it_the_order_is_what_it_was():
    plain, given = (list(TrainSampler(9, rank=0, world_size=1, seed=3, records=r)) for r in (0, 9))
    assert plain == given and sorted(key.index for key in plain) == list(range(9))


def test_balanced_classes_stay_balanced():
    labels = [0] * 9 + [1] * 3
    keys = list(BalancedSampler(labels, rank=0, world_size=1, seed=0, records=48))
    assert Counter(labels[key.index] for key in keys) == {0: 24, 1: 24}
    assert len(set(keys)) == 48


def test_a_run_in_the_middle_of_an_epoch_goes_on_with_the_next_record():
    sampler = TrainSampler(5, rank=0, world_size=1, seed=0, records=20)
    whole = list(sampler)
    sampler.set_epoch(0, start=13)
    assert list(sampler) == whole[13:]


def test_the_batch_is_kept_where_the_list_is_repeated():
    args = make_args("--steps", "100", global_batch=512, batch_size=64)
    assert fit_batch_to_list(args, videos=23, processes=1) is args


@pytest.mark.parametrize(
    ("flags", "videos", "warned"),
    [
        ({}, 58, True),
        ({}, 50_000, False),
        ({"steps": 300}, 58, False),
        ({"recipe": "custom/tiny_f8_res224"}, 58, False),
        ({"num_frames": 1}, 58, False),
    ],
)
def test_defaults_on_a_short_list_are_warned_of(caplog, flags, videos, warned):
    args = make_args(**{"num_frames": 8, "batch_size": 8, "epochs": 6, "global_batch": 0} | flags)
    fit_batch_to_list(args, videos=videos, processes=1)
    assert ("58 training videos give 42 optimizer steps in all" in caplog.text) == warned
    assert ("--recipe custom/hybrid" in caplog.text) == warned
