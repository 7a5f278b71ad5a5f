"""Checkpoint files: accepted if intact, otherwise refused in one sentence; opened once, never executed."""

import argparse
import contextlib
import os
import random
import struct
import sys
import zipfile
from types import SimpleNamespace

import pytest
import torch
from inference_files import save_checkpoint

import run_class_finetuning
from common.settings import from_flags
from engines.checkpoint import load_weights, read_checkpoint
from engines.configuration import parse_arguments, parse_command_line
from engines.objectives.classification import Classification
from inference import load_predictor
from models import VideoMambaPro
from models.arguments import ModelSettings, WeightSettings
from models.build import build_model, load_finetune_checkpoint
from models.checkpoint import load_checkpoint
from models.checkpoint_file import CheckpointError, peek_checkpoint, read_checkpoint_file
from models.describe import describe_checkpoint
from tools import checkpoint
from tools import checkpoint_file as tool
from tools.export import main as export_main

SIZES = dict(img_size=32, num_frames=2, num_classes=3, embed_dim=16, depth=1)


def write(path):
    """A file written by the project, small enough to be read hundreds of times."""
    torch.manual_seed(0)
    model = VideoMambaPro(**SIZES)
    source = path.with_name("source.pth")
    torch.save({"model": model.state_dict(), "model_config": model.config.values(), "args": {"lr": 0.5}}, source)
    tool.convert(source, path)
    return path


def damaged(path, position, bit):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    broken = path.with_name(f"broken{path.suffix}")
    broken.write_bytes(data)
    return broken


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_no_flipped_bit_passes_as_other_content(tmp_path, suffix):
    path = write(tmp_path / f"whole{suffix}")
    whole, size = read_checkpoint_file(path), path.stat().st_size
    draw = random.Random(0)
    # All over the file, and as many where its structure is: header first in one format, directory last in the other.
    structure = range(2000) if suffix == ".safetensors" else range(size - 2000, size)
    positions = [draw.randrange(size) for _ in range(200)] + [draw.choice(structure) for _ in range(200)]
    refused = 0
    for position in positions:
        try:
            content = read_checkpoint_file(damaged(path, position, draw.randrange(8)))
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error) and "weights_only" not in str(error)
            continue
        assert same(content, whole), position
    assert refused > 300, "few bits of a file mean nothing"


def test_every_user_of_a_file_refuses_a_flipped_weight(tmp_path, capsys):
    path = save_checkpoint(tmp_path / "whole.pth")
    position = path.read_bytes().index(torch.load(path, weights_only=True)["model"]["head.weight"].numpy().tobytes())
    broken = damaged(path, position + 2, 6)
    words = ["--finetune", str(broken), "--model", "videomambapro_nano"]
    users = [
        lambda: load_predictor(broken, device="cpu"),
        lambda: load_checkpoint(VideoMambaPro(), broken),
        lambda: parse_arguments(run_class_finetuning.get_parser(), words, script=run_class_finetuning.SCRIPT),
        lambda: read_checkpoint(broken),
        lambda: load_weights(Classification(VideoMambaPro(), 1000), broken),
    ]
    for use in users:
        with pytest.raises(CheckpointError, match="checksum of entry .*/data/.* is wrong"):
            use()
    for main, arguments in [
        (checkpoint.main, ["inspect", str(broken)]),
        (checkpoint.main, ["convert", str(broken), str(tmp_path / "x.pth")]),
        (export_main, [str(broken), str(tmp_path / "x.pt2")]),
    ]:
        assert main(arguments) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_the_training_scripts_refuse_it_in_a_sentence(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "whole.pth")
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(sys, "argv", ["run.py", "--finetune", str(path)])
    with pytest.raises(SystemExit) as ended:
        parse_command_line(run_class_finetuning.get_parser(), script=run_class_finetuning.SCRIPT)
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        f"run.py: error: {path} cannot be read as a checkpoint: it is damaged or has another format"
    )


def directory_entry(data, name):
    """Return the offset in the archive's directory of the entry with this ending."""
    start = data.index(b"PK\x01\x02")
    while not data[start + 46 : start + 46 + struct.unpack_from("<H", data, start + 28)[0]].endswith(name):
        start = data.index(b"PK\x01\x02", start + 4)
    return start


@pytest.mark.parametrize(("offset", "mask"), [(38, 0x10), (8, 0x1), (10, 99), (10, 8)])
def test_entries_that_are_no_plain_files_are_refused(tmp_path, offset, mask):
    """Test a folder flag, which makes torch.load skip the memory, encryption, and other compressions."""
    path = write(tmp_path / "whole.pth")
    data = bytearray(path.read_bytes())
    data[directory_entry(data, b"/data/0") + offset] ^= mask
    path.write_bytes(data)
    for read in (read_checkpoint_file, read_checkpoint):
        with pytest.raises(CheckpointError, match="whole.pth cannot be read as a checkpoint"):
            read(path)


@pytest.mark.parametrize("keep", [0, 3, 1000, -1000, -1])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_cut_short_are_refused(tmp_path, suffix, keep):
    path = write(tmp_path / f"whole{suffix}")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_checkpoint_file(path)


def test_a_digest_that_was_taken_away_is_missed(tmp_path):
    path = write(tmp_path / "whole.safetensors")
    data = path.read_bytes()
    assert data.count(b'"digest"') == 1
    path.write_bytes(data.replace(b'"digest"', b'"dugest"'))
    with pytest.raises(CheckpointError, match="does not match the digest in its metadata"):
        read_checkpoint_file(path)


def test_a_file_of_before_archives_is_read(tmp_path):
    state = {"model": {"weight": torch.arange(3.0)}}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "old.pth")
    assert same(read_checkpoint_file(tmp_path / "old.pth"), state)


def test_the_published_codes_namespace_is_read_as_flags(tmp_path):
    flags = dict(model="videomambapro_tiny", num_frames=2, sampling_rate=3, data_set="Kinetics_sparse", lr=1e-3)
    state = VideoMambaPro(**SIZES).state_dict()
    torch.save({"model": state, "args": argparse.Namespace(**flags)}, tmp_path / "published.pth")
    assert describe_checkpoint(tmp_path / "published.pth").flags == flags
    tool.convert(tmp_path / "published.pth", tmp_path / "published.safetensors")
    assert describe_checkpoint(tmp_path / "published.safetensors").flags == flags
    predictor = load_predictor(
        tmp_path / "published.pth", device="cpu", model="videomambapro_nano", depth=1, embed_dim=16
    )
    assert predictor.plan.sample(40, mode="test").tolist() == [9, 29], "sparse, as the preset of that name"
    assert argparse.Namespace not in torch.serialization.get_safe_globals(), "other code reads as before"


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile",)


@pytest.mark.parametrize(
    ("value", "name"), [(Hostile(), "posix.mkdir"), (SimpleNamespace(a=1), "types.SimpleNamespace")]
)
def test_a_namespace_that_holds_other_objects_is_refused(tmp_path, monkeypatch, value, name):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "args": argparse.Namespace(value=value)}, "file.pth")
    with pytest.raises(CheckpointError, match=f"it contains {name}, and files that run code") as caught:
        read_checkpoint_file("file.pth")
    assert os.listdir() == ["file.pth"] and "weights_only" not in str(caught.value)


_opened = []
sys.addaudithook(lambda event, args: _opened.append(str(args[0])) if event == "open" else None)


@contextlib.contextmanager
def opened_once(path):
    _opened.clear()
    yield
    assert _opened.count(str(path)) == 1


def test_a_checkpoint_is_opened_once(tmp_path):
    path = save_checkpoint(tmp_path / "c.pth")
    with opened_once(path):
        load_predictor(path, device="cpu")
    for flag in ("--finetune", "--resume"):
        with opened_once(path):
            parser = run_class_finetuning.get_parser()
            args = parse_arguments(parser, ["--eval", flag, str(path)], script=run_class_finetuning.SCRIPT)
            model = build_model(ModelSettings.from_flags(args), args.nb_classes)
            load_finetune_checkpoint(model, from_flags(WeightSettings, args))
            if args.resume:
                load_weights(Classification(model, args.nb_classes), path)
    with opened_once(path):
        tool.convert(path, tmp_path / "w.pth")


def test_a_file_that_was_written_again_is_opened_again(tmp_path):
    torch.save({"model": {"w": torch.zeros(1)}}, tmp_path / "a.pth")
    peek_checkpoint(tmp_path / "a.pth")
    torch.save({"model": {"w": torch.ones(1)}}, tmp_path / "a.pth")
    assert read_checkpoint_file(tmp_path / "a.pth")["model"]["w"] == 1
