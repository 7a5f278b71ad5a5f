"""What the logs show of a batch, and the advice if data loading is too slow."""

import json

import pytest
import torch

from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from engines import machine
from engines.logs import RunLog, clip_picture, loading_advice


def test_a_picture_has_a_clip_a_row_in_the_videos_own_colours():
    colours = torch.rand(5, 3, 20, 1, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    clips = ((colours - mean) / std).expand(5, 3, 20, 6, 6)
    picture = clip_picture({"clips": clips})
    assert picture.shape == (3, 4 * 8 + 2, 8 * 8 + 2), "four clips, eight frames, margins of two pixels"
    centres = picture[:, 5::8, 5::8]
    torch.testing.assert_close(centres[:, 2, 0], colours[2, :, 0, 0, 0])
    torch.testing.assert_close(centres[:, 3, -1], colours[3, :, -1, 0, 0])


@pytest.mark.parametrize(
    ("waiting", "workers", "cores", "gpu", "said"),
    [(0.05, 1, 4, True, ""), (0.42, 1, 4, True, "42% of the time with --num_workers 1: raise --num_workers to 3"),
     (0.42, 4, 4, True, "no core is free: make videos cheaper to decode"),
     (0.42, 0, 16, False, "raise --num_workers to 4"), (0.42, 0, 2, False, "")],
)  # fmt: skip
def test_advice_on_slow_loading(monkeypatch, waiting, workers, cores, gpu, said):
    monkeypatch.setattr(machine, "usable_cores", lambda: 2 * cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    advice = loading_advice(waiting, workers, gpu=gpu)
    assert said in advice and bool(said) == bool(advice)


WHOLE = json.dumps({"epoch": 0, "train_loss": 1.5})


@pytest.mark.parametrize("torn", ["{", '{"epoch": 1, "train_lo', '{"epoch": 1, "name": "\xc3', "\0\0\0"])
def test_a_line_that_a_kill_has_cut_off_costs_no_epochs_record(tmp_path, caplog, torn):
    file = tmp_path / "log.txt"
    file.write_bytes((WHOLE + "\n" + torn).encode("latin-1"))
    log = RunLog(str(tmp_path))
    log.epoch({"epoch": 1})
    assert [json.loads(line)["epoch"] for line in file.read_text().splitlines()] == [0, 1]
    assert "log.txt: removing the last line, which was cut off" in caplog.text


def test_a_line_that_lacks_only_its_end_is_kept(tmp_path, caplog):
    file = tmp_path / "log.txt"
    file.write_text(WHOLE)
    RunLog(str(tmp_path)).epoch({"epoch": 1})
    assert [json.loads(line)["epoch"] for line in file.read_text().splitlines()] == [0, 1]
    RunLog(str(tmp_path)).epoch({"epoch": 2})
    assert [json.loads(line)["epoch"] for line in file.read_text().splitlines()] == [0, 1, 2]
    assert not caplog.text
