"""Compare the whole model with its peers: time, memory, training, one mixer, the machine's limit.

    python -m benchmarks.model [frames memory training backends mixer limit bf16 sizes] [--threads 2] [--json out.json]
    python -m benchmarks.model sizes --device cuda [--batch 8] [--json out.json]

Sections (default: all except bf16, memory and sizes, which take minutes more; on a GPU only sizes):
    frames    forward pass of VideoMambaPro and of VideoMAE's ViTs over 8, 16, 32 and 64 frames
    memory    peak memory of the same above that of an idle process with model and clip, in separate processes
    training  one step (forward, loss, backward, AdamW) over one clip of 8 frames, with its peak memory
    backends  Tiny's forward pass with the reference loop, plain PyTorch and the C++ kernel
    mixer     one layer's mixer, both directions, against two passes of the mixers of transformers and mambapy
    limit     one layer's scans, and Tiny's forward pass and training step, against their matrix products plus the
              scans' arithmetic at the rate of probes
    bf16      Tiny with bfloat16 autocast: time, and the top five classes of 32 random clips
    sizes     Tiny, Small and Middle in float32 and with bfloat16 autocast, forward and training step: clips per second
              and peak memory above model and clips; on a GPU with cold caches, timed by events

All candidates of a section take turns (A B A B) in one process; medians are reported. Peers whose library is missing
are skipped. --json keeps the sections of earlier runs in FILE, so that they can be measured one at a time.
"""

import argparse
import dataclasses
import functools
import json
import platform
import sys
import time
from pathlib import Path

import torch

from benchmarks import devices, limit, peers
from benchmarks.timing import WALL_TIME, Call, Stopwatch, by_clock, interleaved_medians, peak_bytes, peak_of
from common.files import write_json
from common.flag_parser import FlagParser
from common.memory import keep_freed_memory
from mamba.mamba_ssm.modules.mamba_simple import Mamba
from mamba.mamba_ssm.ops.selective_scan import available_backends, choose_backend

ROUNDS = 7
FRAMES = (8, 16, 32, 64)
TRAINED = (peers.TINY, peers.TINY_TUBELET_2, "ViT-Ti")  # the latter two have equal numbers of tokens
TOKENS = limit.TOKENS  # of the single mixer
CLIPS, FIRST_CLASSES = 32, 5
TOLERANCE, ROUNDED_TOLERANCE = 1e-4, 5e-2  # of logits in float32 and under autocast

Rows = dict[str, dict[str, float]]


def installed(names: tuple[str, ...]) -> list[str]:
    """Return the models in `names` whose library is installed."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        return [name for name in names if name not in peers.VIT_WIDTHS]
    return list(names)


def frames_section(arguments) -> Rows:
    """Measure the milliseconds of a forward pass, by model and frames."""
    rows: Rows = {name: {} for name in installed(arguments.models or peers.MODELS)}
    for frames in arguments.frames:
        candidates = {name: peers.build(name, frames).forward for name in rows}
        for call in candidates.values():
            call()
        for name, seconds in interleaved_medians(candidates, ROUNDS, stopwatch(arguments)).items():
            rows[name][f"{frames} frames, ms"] = 1e3 * seconds
    return rows


def memory_section(arguments) -> Rows:
    """Measure the peak megabytes of a forward pass, by model and frames."""
    rows: Rows = {}
    for name in installed(arguments.models or peers.MODELS):
        peaks = {n: peak_of("benchmarks.model", *peak_flags(name, "forward", n)) for n in arguments.frames}
        rows[name] = {f"{n} frames, MB": peak / 1e6 for n, peak in peaks.items()}
    return rows


def training_section(arguments) -> Rows:
    """Measure the milliseconds and megabytes of a training step, by model."""
    steps = {name: peers.build(name, 8).training_step() for name in installed(TRAINED)}
    for step in steps.values():
        step()
    return {
        name: {
            "step, ms": 1e3 * seconds,
            "peak, MB": peak_of("benchmarks.model", *peak_flags(name, "step", 8)) / 1e6,
        }
        for name, seconds in interleaved_medians(steps, ROUNDS, stopwatch(arguments)).items()
    }


def backends_section(arguments) -> Rows:
    """Measure the milliseconds of Tiny's forward pass over 8 frames, by backend; all must yield the same logits."""
    names = [name for name, state in available_backends().items() if state == "available"]
    candidates = {name: peers.build(peers.TINY, 8, backend=name) for name in reversed(names)}
    logits = {name: candidate.forward() for name, candidate in candidates.items()}
    for name, got in logits.items():
        check_equal(name, got, logits["reference"])
    calls = {name: candidate.forward for name, candidate in candidates.items()}
    seconds = interleaved_medians(calls, ROUNDS, stopwatch(arguments))
    return with_factors({name: {"forward, ms": 1e3 * s} for name, s in seconds.items()})


def mixer_section(arguments) -> Rows:
    """Measure the milliseconds of one layer, by mixer; with equal settings, ours must yield the peers' results."""
    ours = Mamba(peers.WIDTH).eval()
    x = torch.randn(1, TOKENS, peers.WIDTH)
    calls = {}
    for name, pair in peers.mixer_pairs().items():
        same, twice = peers.mixer_of(*pair), peers.both_ways(*pair)
        with torch.no_grad():
            check_equal(name, same(x), twice(x))
        calls |= {f"two of {name}": twice, "ours, computing the same": same}
    calls["ours, VideoMambaPro's"] = ours
    with torch.no_grad():
        ours(x)
        timed = {name: (lambda f=f: f(x)) for name, f in calls.items()}
        seconds = interleaved_medians(timed, ROUNDS, stopwatch(arguments))
    return {
        name: {"forward, ms": 1e3 * s, "times ours": s / seconds["ours, VideoMambaPro's"]}
        for name, s in seconds.items()
    }


def limit_section(arguments) -> Rows:
    """Measure one layer's scans and Tiny over 8 frames, forward and in training, against the time of their parts."""
    probes = limit.probes()
    subjects = limit.subjects(peers.build(peers.TINY, 8), peers.build(peers.TINY, 8))
    calls: dict[str, Call] = dict(probes)
    for name, subject in subjects.items():
        calls |= {name: subject.call, f"products of {name}": subject.products}
    for call in calls.values():
        call()
    seconds = interleaved_medians(calls, ROUNDS, stopwatch(arguments))
    rates = {kind: probe() / seconds[kind] for kind, probe in probes.items()}
    rows: Rows = {}
    for name, subject in subjects.items():
        parts = {"products": seconds[f"products of {name}"], **subject.arithmetic.seconds(rates)}
        whole = sum(parts.values())
        rows[name] = {f"{part}, ms": 1e3 * value for part, value in parts.items()}
        rows[name] |= {
            "limit, ms": 1e3 * whole,
            "measured, ms": 1e3 * seconds[name],
            "times the limit": seconds[name] / whole,
        }
    return rows


def bf16_section(arguments) -> Rows:
    """Measure Tiny in float32 and with autocast: milliseconds, change of the logits, clips with equal top classes."""
    variants = in_all_precisions(peers.build(peers.TINY, 8))
    for variant in variants.values():
        variant.forward()
    calls = {name: variant.forward for name, variant in variants.items()}
    seconds = interleaved_medians(calls, ROUNDS, stopwatch(arguments))
    same, moved = 0, 0.0
    for seed in range(CLIPS):
        for variant in variants.values():
            variant.clip = torch.randn(variant.clip.shape, generator=torch.Generator().manual_seed(seed))
        exact, rounded = (variant.forward().float() for variant in variants.values())
        same += set(exact.topk(FIRST_CLASSES).indices[0].tolist()) == set(
            rounded.topk(FIRST_CLASSES).indices[0].tolist()
        )
        moved = max(moved, relative_error(rounded, exact))
    rows = with_factors({name: {"forward, ms": 1e3 * s} for name, s in seconds.items()})
    rows["bfloat16 autocast"] |= {f"same {FIRST_CLASSES} first of {CLIPS}": same, "logits moved by": moved}
    return rows


def sizes_section(arguments) -> Rows:
    """Measure milliseconds, clips per second and megabytes of forward passes and training steps, by model."""
    by_device = devices.stopwatch_of(arguments.device, devices.large_copy(arguments.device))
    rows: Rows = {}
    for name in arguments.models or peers.SIZES:
        build = functools.partial(peers.build, name, 8, device=arguments.device, batch=arguments.batch)
        exact = build(backend="portable").forward()
        variants = in_all_precisions(build())
        for precision, variant in variants.items():
            tolerance = TOLERANCE if precision == peers.PRECISIONS[0] else ROUNDED_TOLERANCE
            check_equal(f"{name}, {precision}", variant.forward().float(), exact, tolerance)
        for what in ("forward", "step"):
            calls = {p: v.forward if what == "forward" else v.training_step() for p, v in variants.items()}
            peaks = {}
            for precision, call in calls.items():
                flags = peak_flags(name, what, 8, arguments.batch, precision)
                twice = functools.partial(repeat, call, 2)
                peaks[precision] = devices.peak_of_call(arguments.device, twice, "benchmarks.model", *flags)
                call()
            for precision, seconds in interleaved_medians(calls, ROUNDS, by_device).items():
                row = rows.setdefault(f"{name}, {precision}", {})
                row[f"{what}, ms"] = 1e3 * seconds
                row[f"{what}, clips/s"] = arguments.batch / seconds
                row[f"{what}, peak MB"] = peaks[precision] / 1e6
    return rows


SECTIONS = {
    "frames": frames_section,
    "training": training_section,
    "backends": backends_section,
    "mixer": mixer_section,
    "limit": limit_section,
    "memory": memory_section,
    "bf16": bf16_section,
    "sizes": sizes_section,
}
GPU_SECTIONS = ("sizes",)
DEFAULT_SECTIONS = ("frames", "training", "backends", "mixer", "limit")


def stopwatch(arguments) -> Stopwatch:
    """Return how to time calls on the CPU."""
    return by_clock(time.process_time) if arguments.cpu else WALL_TIME


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Return the norm of the difference divided by the norm of the expected values."""
    return ((got - want).norm() / want.norm()).item()


def check_equal(name: str, got: torch.Tensor, want: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    """Exit if two results differ, because no speed is reported for wrong results."""
    error = relative_error(got, want)
    if not error <= tolerance:
        raise SystemExit(f"no speed is reported for wrong results: {name} differs by {error:.1e}")


def with_factors(rows: Rows) -> Rows:
    """Add how many times faster than the first row each row is."""
    base = next(iter(rows.values()))["forward, ms"]
    return {name: {**row, "factor": base / row["forward, ms"]} for name, row in rows.items()}


def in_all_precisions(candidate: peers.Candidate) -> dict[str, peers.Candidate]:
    """Return the candidate in each precision; all share one model."""
    return {precision: dataclasses.replace(candidate, precision=precision) for precision in peers.PRECISIONS}


def repeat(call: Call, times: int) -> None:
    """Call `call` repeatedly; a second training step has the optimizer state of the first."""
    for _ in range(times):
        call()


def peak_flags(name: str, what: str, frames: int, batch: int = 1, precision: str = peers.PRECISIONS[0]) -> list[str]:
    """Return the command line that runs `print_peak` in a separate process."""
    return ["--peak-of", name, what, str(frames), str(batch), precision]


def print_peak(name: str, what: str, frames: str, batch: str, precision: str) -> None:
    """Print the bytes that forward passes or training steps of `name` add to the peak of the idle process."""
    candidate = in_all_precisions(peers.build(name, int(frames), batch=int(batch)))[precision]
    call = candidate.training_step() if what == "step" else candidate.forward
    idle = peak_bytes()
    repeat(call, 2 if what == "step" else 1)
    print(peak_bytes() - idle)


def print_table(title: str, rows: Rows) -> None:
    """Print one line per row, with columns in order of first appearance."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    width = max(map(len, rows))
    print(f"\n{title}\n{'':{width}} " + " ".join(f"{column:>16}" for column in columns))
    for name, row in rows.items():
        cells = (f"{row[column]:.4g}" if column in row else "" for column in columns)
        print(f"{name:{width}} " + " ".join(f"{cell:>16}" for cell in cells))


def machine(device: str) -> dict[str, str | int]:
    """Describe the machine, in general terms."""
    if device == "cuda":
        backend = choose_backend(None, torch.device(device), torch.float32)
        return {"GPU": devices.device_name(device), "backend": backend, "torch": torch.__version__}
    use = getattr(torch.ops.vmp_cpu, "use_instruction_set", None)
    return {
        "architecture": platform.machine(),
        "instruction set": use("") if use else "",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = FlagParser(
        prog="benchmarks.model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    devices.add_device_argument(parser)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument(
        "--frames", type=int, nargs="+", default=FRAMES, help="numbers of frames for frames and memory"
    )
    models = (*peers.MODELS, peers.MIDDLE)
    parser.add_argument(
        "--models", nargs="+", choices=models, metavar="MODEL", help="models for frames, memory and sizes"
    )
    parser.add_argument("--batch", type=int, default=1, help="batch size for sizes")
    parser.add_argument("--cpu", action="store_true", help="measure CPU time, on a machine shared with others")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--peak-of", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)}")
    defaults = GPU_SECTIONS if arguments.device == "cuda" else DEFAULT_SECTIONS
    arguments.sections = arguments.sections or list(defaults)
    if arguments.device == "cuda" and set(arguments.sections) != set(GPU_SECTIONS):
        parser.error(f"--device cuda measures {', '.join(GPU_SECTIONS)}; the other sections run on the CPU")
    devices.require_device(parser, arguments.device)
    return arguments


def main() -> int:
    """Measure the requested sections and print each immediately."""
    arguments = parse_arguments()
    keep_freed_memory()  # as training does
    if arguments.peak_of:
        print_peak(*arguments.peak_of)
        return 0
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    found = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    for section in arguments.sections:
        rows = SECTIONS[section](arguments)
        print_table(section, rows)
        found[section] = {"machine": machine(arguments.device), "rows": rows}
        if arguments.json:
            write_json(arguments.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
