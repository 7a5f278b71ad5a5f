"""The benchmarks' own arithmetic: what is counted, that peers compute the same, timing, and the picture."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import limit, model, peers, timing
from models import VideoMambaPro

ROOT = Path(__file__).parent.parent
SMALL = dict(img_size=32, num_frames=2, num_classes=5, embed_dim=32, depth=3)


def test_the_limits_products_are_those_of_a_forward_pass():
    small = VideoMambaPro(**SMALL)
    with FlopCounterMode(display=False) as alone:
        limit.matrix_products(small)()
    with FlopCounterMode(display=False) as whole, torch.no_grad():
        small.eval()(torch.zeros(1, 3, 2, 32, 32))
    products = ("aten.mm", "aten.addmm", "aten.convolution")
    flops = {str(name): value for name, value in whole.get_flop_counts()["Global"].items()}
    assert alone.get_total_flops() == sum(value for name, value in flops.items() if name.startswith(products))


def test_arithmetic_counts_two_scans_of_every_state():
    tokens, channels, depth = 1 + 2 * 4, 64, 3
    counts = limit.arithmetic_of(VideoMambaPro(**SMALL))
    assert counts.exponentials == depth * tokens * channels * (2 * 16 + 3)
    assert counts.fmas == depth * tokens * channels * (2 * 16 * 4 + 4)


def test_outside_mixers_compute_what_ours_does():
    pairs = peers.mixer_pairs()
    if not pairs:
        pytest.skip("neither transformers nor mambapy is installed")
    x = torch.randn(1, 20, peers.WIDTH, generator=torch.Generator().manual_seed(0))
    for pair in pairs.values():
        with torch.no_grad():
            torch.testing.assert_close(
                peers.mixer_of(*pair)(x), peers.both_ways(*pair)(x), rtol=1e-4, atol=1e-5
            )  # fmt: skip


def test_wrong_numbers_end_the_benchmark():
    with pytest.raises(SystemExit, match="backend 'x' differs by 1.0e"):
        model.check_equal("backend 'x'", torch.tensor([2.0]), torch.tensor([1.0]))


def test_candidates_take_turns_and_slow_ones_rest(monkeypatch):
    turns = []
    ticks = iter(range(10_000))
    monkeypatch.setattr(timing, "BUDGET_SECONDS", 3.5)
    medians = timing.interleaved_medians(
        {"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 9, clock=lambda: float(next(ticks))
    )
    assert "".join(turns) == "abababab"
    assert medians == {"a": 1.0, "b": 1.0}


def test_a_section_that_does_not_exist_is_named(capsys):
    with pytest.raises(SystemExit):
        model.parse_arguments(["frames", "memry"])
    assert "no section memry" in capsys.readouterr().err


def test_the_picture_needs_both_sections(tmp_path):
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    command = [sys.executable, "-m", "benchmarks.plot", str(figures), str(picture)]
    sections = {"frames": {"rows": {"VideoMambaPro-Tiny": {"8 frames, ms": 300.0, "16 frames, ms": 600.0}}}}
    figures.write_text(json.dumps(sections))
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert "benchmarks.model memory --json" in failed.stderr
    sections["memory"] = {"rows": {"VideoMambaPro-Tiny": {"8 frames, MB": 60.0, "16 frames, MB": 120.0}}}
    figures.write_text(json.dumps(sections))
    subprocess.run(command, cwd=ROOT, check=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
