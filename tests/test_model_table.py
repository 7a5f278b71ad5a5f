"""Complexity of the models against independent counts: the published parameters and PyTorch's FLOP counter."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.model_table import FAMILIES, PUBLISHED_GFLOPS, SETTINGS, SIZES, describe_model, main, table_of
from mamba.mamba_ssm.modules.mamba_simple import scan_flops
from models.complexity import measure_complexity

PUBLISHED_KEYS = json.loads((Path(__file__).parent / "data" / "state_dict_keys.json").read_text())


def on_meta(name, **settings):
    with torch.device("meta"):
        return timm.create_model(name, **settings)


@pytest.mark.parametrize("name", PUBLISHED_KEYS)
def test_parameters_are_those_of_the_published_code(name):
    published = PUBLISHED_KEYS[name]
    model = on_meta(name, num_classes=published["num_classes"], num_frames=published["num_frames"])
    assert measure_complexity(model).parameters == published["params"]


@pytest.mark.parametrize("name", ["videomambapro_tiny", "videomamba_tiny"])
def test_operations_are_those_that_pytorch_counts(name):
    model = on_meta(name, num_classes=9, num_frames=4, img_size=48, depth=3, tubelet_size=2).to_empty(device="cpu")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 4, 48, 48))
    tokens, channels, taps = 1 + 2 * 9, 384, 4
    convolutions = 2 * 3 * tokens * channels * taps * (2 if name == "videomamba_tiny" else 1)
    counted = counter.get_total_flops() - _counted_convolutions(counter)
    assert measure_complexity(model).flops == counted + convolutions


def _counted_convolutions(counter):
    """Operations of depthwise convolutions, should a backend of theirs be counted by PyTorch."""
    return sum(count for op, count in counter.get_flop_counts()["Global"].items() if "causal_conv" in str(op))


def test_the_scan_by_hand():
    # 2 directions x 3 clips x 5 tokens x 7 channels x (9 operations x 16 entries + 2 for the skip)
    assert scan_flops(3, 5, 7, 16, directions=2) == 2 * 3 * 5 * 7 * 146


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "frames", "resolution"), PUBLISHED_GFLOPS)
def test_published_operations_within_three_percent(family, size, frames, resolution):
    counted = describe_model(f"{family}_{size}", frames, resolution).projection_macs / 1e9
    assert counted == pytest.approx(PUBLISHED_GFLOPS[size, frames, resolution], rel=0.03)


def test_recomputation_keeps_less_and_costs_nothing_else():
    plain = measure_complexity(on_meta("videomambapro_tiny"))
    recomputed = measure_complexity(on_meta("videomambapro_tiny", use_checkpoint=True, checkpoint_num=24))
    assert recomputed.activation_bytes < plain.activation_bytes / 4
    assert recomputed.flops == plain.flops


def test_the_document_has_every_model_and_setting(tmp_path, monkeypatch, capsys):
    table = table_of("videomambapro", "tiny")
    assert table.count("\n") + 1 == 2 + len(SETTINGS)
    assert "| 1 @ 224 | 197 | 6,567,592 |" in table and "| 1.07 | 1.1 | -2.3% |" in table
    monkeypatch.setattr("benchmarks.model_table.table_of", lambda family, size: f"{family} of {size}")
    main(["--output", str(tmp_path / "docs" / "models.md")])
    text = (tmp_path / "docs" / "models.md").read_text()
    assert text.rstrip() == capsys.readouterr().out.rstrip()
    assert all(f"{family} of {size}" in text for family in FAMILIES for size in SIZES)


def test_the_written_document_is_what_the_code_counts(monkeypatch):
    monkeypatch.setattr("benchmarks.model_table.SETTINGS", ((32, 224),))
    written = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    row = next(line for line in table_of("videomamba", "middle").splitlines() if line.startswith("| 32 @ 224 |"))
    cells = row.split(" | ")
    assert any(line.split(" | ")[:4] == cells[:4] and line.split(" | ")[6:] == cells[6:]
               for line in written.splitlines()), "run python -m benchmarks.model_table"  # fmt: skip
