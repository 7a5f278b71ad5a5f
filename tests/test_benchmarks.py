"""The calculations of the benchmarks: counts, equivalence of peers, timing, and the plot."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import devices, limit, model, peers, timing
from models import VideoMambaPro

ROOT = Path(__file__).parent.parent
SMALL = dict(img_size=32, num_frames=2, num_classes=5, embed_dim=32, depth=3)


@pytest.mark.parametrize("training", [False, True])
def test_the_limits_products_are_those_of_the_model(training):
    small = VideoMambaPro(**SMALL).train(training)
    with FlopCounterMode(display=False) as alone:
        limit.matrix_products(small, training)()
    with FlopCounterMode(display=False) as whole, torch.set_grad_enabled(training):
        logits = small(torch.zeros(1, 3, 2, 32, 32))
        if training:
            logits.sum().backward()
    products = ("aten.mm", "aten.addmm", "aten.convolution", "aten.bmm")
    flops = {str(name): value for name, value in whole.get_flop_counts()["Global"].items()}
    assert alone.get_total_flops() == sum(value for name, value in flops.items() if name.startswith(products))


def test_arithmetic_counts_two_scans_of_every_state():
    elements = 3 * (1 + 2 * 4) * 64  # layers, tokens, channels
    model = VideoMambaPro(**SMALL)
    forward, training = limit.of_forward_pass(model), limit.of_training_step(model)
    assert forward == limit.Arithmetic(elements * (2 * 16 + 3), elements * (2 * 16 * 4 + 4))
    backward = limit.Arithmetic(
        exponentials=elements * (2 * 16 + 3 + 1),  # softplus, its derivative, two gates
        fmas=elements * (2 * 16 * 12 + 3 * 4),
        lane_sums=elements * 2 * 16,
    )
    assert training == forward + backward


def test_every_section_runs_in_a_process_that_has_computed_nothing():
    code = """
import os, sys
import torch
from benchmarks import devices, limit, model, peers, timing
from models import VideoMambaPro

def build(name, frames, backend=None, device="cpu", batch=1):
    torch.manual_seed(0)
    small = VideoMambaPro(img_size=32, num_frames=2, num_classes=5, embed_dim=32, depth=1, backend=backend)
    return peers.Candidate(small.eval(), torch.randn(batch, 3, 2, 32, 32))

peers.build, limit.PROBE, limit.TOKENS, model.TOKENS = build, 1000, 5, 5
model.ROUNDS, model.CLIPS, timing.SLICE_SECONDS, devices.COPIED_BYTES["cpu"] = 1, 1, 0.0, 1 << 20
model.peak_of = devices.peak_of = lambda module, *flags: 1
model.installed, peers.mixer_pairs = list, dict  # without the libraries of the peers, which take seconds to load
for section, measure in model.SECTIONS.items():
    child = os.fork()
    if child == 0:
        rows = measure(model.parse_arguments([section, "--cpu"]))
        print(section, sorted(rows), flush=True)
        os._exit(0 if rows else 1)
    assert os.waitpid(child, 0)[1] == 0, section
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


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
    candidates = {"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}
    medians = timing.interleaved_medians(candidates, 9, timing.by_clock(lambda: float(next(ticks))))
    assert "".join(turns) == "abababab"
    assert medians == {"a": 1.0, "b": 1.0}


def test_a_section_that_does_not_exist_is_named(capsys):
    with pytest.raises(SystemExit):
        model.parse_arguments(["frames", "memry"])
    assert "no section memry" in capsys.readouterr().err


def test_sizes_are_measured_in_both_precisions(monkeypatch):
    built = []

    def build(name, frames, backend=None, device="cpu", batch=1):
        built.append((name, backend))
        torch.manual_seed(0)
        return peers.Candidate(VideoMambaPro(**SMALL, backend=backend).eval(), torch.randn(batch, 3, 2, 32, 32))

    monkeypatch.setattr(peers, "build", build)
    monkeypatch.setattr(timing, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(devices, "peak_of", lambda module, *flags: 1e6 * len(flags[2]))
    monkeypatch.setitem(devices.COPIED_BYTES, "cpu", 1 << 20)
    rows = model.sizes_section(model.parse_arguments(["sizes", "--batch", "3", "--models", peers.MIDDLE]))
    assert set(rows) == {f"{peers.MIDDLE}, float32", f"{peers.MIDDLE}, bfloat16 autocast"}
    assert built == [(peers.MIDDLE, "portable"), (peers.MIDDLE, None)]
    for row in rows.values():
        for what in ("forward", "step"):
            assert row[f"{what}, clips/s"] == pytest.approx(3 / (row[f"{what}, ms"] / 1e3))
            assert row[f"{what}, peak MB"] == len(what)


def test_autocast_rounds_the_products():
    torch.manual_seed(0)
    candidate = peers.Candidate(VideoMambaPro(**SMALL).eval(), torch.randn(1, 3, 2, 32, 32))
    exact, rounded = (variant.forward() for variant in model.in_all_precisions(candidate).values())
    assert rounded.dtype == torch.bfloat16
    assert 1e-4 < model.relative_error(rounded.float(), exact) < model.ROUNDED_TOLERANCE


def test_what_runs_on_the_processor_alone_is_refused_on_a_gpu(capsys):
    with pytest.raises(SystemExit):
        model.parse_arguments(["frames", "--device", "cuda"])
    assert "--device cuda measures sizes" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
def test_sizes_on_a_gpu(tmp_path):
    figures = tmp_path / "figures.json"
    flags = ["--device", "cuda", "--models", peers.TINY, "--json", str(figures)]
    subprocess.run([sys.executable, "-m", "benchmarks.model", "sizes", *flags], cwd=ROOT, check=True)
    rows = json.loads(figures.read_text())["sizes"]["rows"]
    assert all(value > 0 for row in rows.values() for value in row.values())


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
