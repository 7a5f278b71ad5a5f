"""Data settings: the same from Python as from flags, without a parser; presets in one table."""

import argparse
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from video_files import numbered_frames, write_video

from datasets.arguments import DataSettings, add_data_arguments
from datasets.build import build_dataset, build_loader
from datasets.presets import PRESETS, get_preset, recipe_of_classes
from engines.recipe import load_recipe

ROOT = Path(__file__).parents[1]
OF_THE_ENGINE = {"seed", "dist_timeout", "steps", "epochs", "update_freq"}


@pytest.fixture
def lists(tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", numbered_frames(12, 32, 48))
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text("a.mp4 0\nb.mp4 1\n")
    return tmp_path


def parsed(*words):
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    return parser.parse_args(words)


def test_the_documented_python_trains_without_a_parser(lists):
    """Runs the example of docs/data.md, on small clips and without workers."""
    (code,) = re.findall(r"```python\n(from datasets.arguments.*?)```", (ROOT / "docs/data.md").read_text(), re.S)
    small = "DataSettings(num_workers=0, input_size=32, read_timeout=0, "
    code = code.replace("DataSettings(data_path", f"{small}data_path").replace("batch_size=16", "batch_size=2")
    for there in ('"lists"', '"/data/mine"'):
        assert there in code
        code = code.replace(there, repr(str(lists)))
    names = {}
    exec(code, names)
    batch = next(iter(names["loader"]))
    # two augmentations of each of two videos
    assert batch["clips"].shape == (4, 3, 8, 32, 32) and sorted(batch["targets"].tolist()) == [0, 0, 1, 1]


def test_flags_and_fields_have_the_same_names_and_defaults():
    flags = vars(parsed())
    fields = {field.name: field.default for field in dataclasses.fields(DataSettings)}
    assert fields.keys() - flags.keys() == OF_THE_ENGINE
    as_parsed = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    assert {name: as_parsed[name] for name in flags} == flags
    assert DataSettings.from_flags(parsed()) == DataSettings()


def test_flags_and_python_give_the_same_samples(lists):
    words = ["--num_frames", "4", "--input_size", "32", "--scale", "0.5", "1", "--read_timeout", "0", "--hflip", "0.5"]
    flags = parsed(*words, "--data_path", str(lists), "--prefix", str(lists))
    flags.seed = 3
    settings = DataSettings(
        data_path=str(lists), data_root=str(lists), num_frames=4, input_size=32, scale=(0.5, 1.0), read_timeout=0,
        hflip=0.5, seed=3,
    )  # fmt: skip
    assert DataSettings.from_flags(flags) == settings
    ours, expected = (build_dataset("train", given)[0].clips for given in (settings, DataSettings.from_flags(flags)))
    assert np.array_equal(ours, expected)


def test_settings_of_an_older_run_have_defaults_for_what_they_lack():
    saved = json.loads(json.dumps(vars(parsed("--num_frames", "16"))))
    del saved["first_frame"], saved["gpu_transforms"]
    assert DataSettings.from_flags(argparse.Namespace(**saved)) == DataSettings(num_frames=16)


def test_a_loader_takes_its_settings_without_changing_them(lists):
    settings = DataSettings(data_path=str(lists), data_root=str(lists), num_workers=0, input_size=32, batch_size=8)
    with pytest.raises(ValueError, match="has 2 videos, too few for a batch of --batch_size 8"):
        build_loader(build_dataset("train", settings), "train", settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.batch_size = 2


@pytest.mark.parametrize("wrong", [{"sampling": "dence"}, {"sampler": "ballanced"}, {"reader": "opencv"}])
def test_a_choice_that_there_is_not_is_refused_from_python_too(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f'--{name} must be one of .*, not "{wrong[name]}"'):
        DataSettings(**wrong)


def test_recipes_agree_with_the_table_of_data_sets():
    for name, preset in PRESETS.items():
        if preset.window_seconds:
            continue
        recipe = recipe_of_classes(preset.num_classes)
        assert bool(recipe) == bool(preset.num_classes), name
        if recipe:
            flags = load_recipe(recipe).flags
            expected = get_preset(flags["data_set"])
            assert (flags.get("nb_classes") or expected.num_classes) == preset.num_classes
            assert flags.get("sampling", expected.sampling) == preset.sampling
            assert "hflip" not in flags and expected.hflip == preset.hflip
    assert recipe_of_classes(4) == recipe_of_classes(7) == recipe_of_classes(None) == recipe_of_classes(0) == ""


@pytest.mark.parametrize(
    ("name", "preset"),
    [("Kinetics-400", "Kinetics"), ("mitv1_sparse", "Kinetics_sparse"), ("IMNET", "ImageNet"), ("hmdb51", "HMDB51")],
)
def test_names_of_published_scripts_are_presets(name, preset):
    assert get_preset(name) is PRESETS[preset]


@pytest.mark.parametrize(
    ("name", "fragment"),
    [("image_folder", "tools.make_lists folder"), ("Kinetik", "choose from")],
)
def test_a_published_name_without_a_counterpart_is_refused_with_the_reason(name, fragment):
    with pytest.raises(ValueError, match=fragment):
        get_preset(name)


def test_the_short_side_follows_the_input_size_unless_it_is_given(lists):
    settings = DataSettings(data_path=str(lists), data_root=str(lists), input_size=32, num_frames=2, num_workers=0)
    batch = next(iter(build_loader(build_dataset("test", settings), "test", settings)))
    assert batch["clips"].shape[-2:] == (32, 32)
    wider = dataclasses.replace(settings, short_side_size=48)
    assert wider.short_side == 48
    with pytest.raises(ValueError, match="--short_side_size 48 and --input_size 32 must be equal"):
        build_dataset("test", wider)
