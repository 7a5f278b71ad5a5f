"""Both scans of one layer, side by side: loop reference, plain PyTorch, C++ kernel and mambapy's parallel scan.

    python -m benchmarks.scan [--length 1569 --dim 384 --state 16] [--threads 2] [--json out.json]

All take the same inputs in the same run, by turns (A B A B), and the medians are shown with the peak memory of each in
a process of its own. Where the outputs or gradients disagree nothing is reported and the exit status is 1. mambapy is
measured where it is installed (`pip install mambapy`); it has neither the mask nor the elemental residual, both are
added around its parallel scan.
"""

import argparse
import json
import sys

import torch
import torch.nn.functional as F

from benchmarks.timing import interleaved_medians, peak_bytes, peak_of
from mamba.mamba_ssm.ops.selective_scan import available_backends, bidirectional_scan, cpu
from mamba.mamba_ssm.ops.selective_scan_interface import selective_scan_ref, selective_scan_ref_sub

try:
    from mambapy.pscan import pscan
except ImportError:
    pscan = None

NAMES = ("u", "delta", "A", "A_b", "B", "C", "D", "z", "delta_bias")
TOLERANCE = 1e-4
ROUNDS = 8


def make_inputs(batch: int, length: int, dim: int, state: int) -> dict[str, torch.Tensor]:
    """Inputs of the operator as a freshly initialised layer has them: A = -(1..state), steps of 0.001 to 0.1."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    A = -torch.arange(1.0, state + 1).repeat(dim, 1)
    steps = torch.exp(torch.empty(dim).uniform_(-6.9, -2.3, generator=generator))
    inputs = {
        "u": normal(batch, length, dim),
        "delta": 0.1 * normal(batch, length, dim),
        "A": A,
        "A_b": A.clone(),
        "B": normal(batch, length, 1, state),
        "C": normal(batch, length, 1, state),
        "D": torch.ones(dim),
        "z": normal(batch, length, dim),
        "delta_bias": torch.log(torch.expm1(steps)),
    }
    return {name: t.requires_grad_() for name, t in inputs.items()}


def loop_reference(u, delta, A, A_b, B, C, D, z, delta_bias):
    """The two reference loops, channels first, flipped and added."""
    u, delta, z = (t.transpose(1, 2) for t in (u, delta, z))
    B, C = (t.squeeze(2).transpose(1, 2) for t in (B, C))
    forward = selective_scan_ref(u, delta, A, B, C, D, z, delta_bias, True)
    u, delta, z, B, C = (t.flip(-1) for t in (u, delta, z, B, C))
    flipped = selective_scan_ref_sub(u, delta, A_b, B, C, D, z, delta_bias, True)
    return (forward + flipped.flip(-1)).transpose(1, 2)


def parallel_scan(u, delta, A, A_b, B, C, D, z, delta_bias):
    """Two of mambapy's parallel scans; the initial state joins the first input, the mask takes the input off again."""
    d = F.softplus(delta + delta_bias)
    total = 2 * D * u
    for A_one, masked in ((A, False), (A_b, True)):
        inputs = (t.flip(1) if masked else t for t in (u, d, B.squeeze(2), C.squeeze(2)))
        u_, d_, B_, C_ = inputs
        decay = torch.exp(d_.unsqueeze(-1) * A_one)
        drive = (d_ * u_).unsqueeze(-1) * B_.unsqueeze(2)
        start = F.pad((decay[:, :1] * u_[:, :1].unsqueeze(-1)), (0, 0, 0, 0, 0, u.shape[1] - 1))
        h = pscan(decay, drive + start)
        if masked:
            h = h - drive
            h = torch.cat([torch.zeros_like(h[:, :1]), h[:, 1:]], dim=1)
        y = (h @ C_.unsqueeze(-1)).squeeze(-1)
        total = total + (y.flip(1) if masked else y)
    return total * F.silu(z)


def candidates() -> dict[str, object]:
    """Name -> function of the operator's nine inputs, for all that can run here."""
    found = {"loop reference": loop_reference}
    for backend, state in available_backends().items():
        if state == "available" and backend != "reference":
            found[backend] = lambda *tensors, backend=backend: bidirectional_scan(*tensors, backend=backend)
    if pscan is not None:
        found["mambapy"] = parallel_scan
    return found


def run(function, inputs, grad_out=None):
    """One call, with its backward pass if `grad_out` is given; returns (out, gradients or None)."""
    tensors = [inputs[name] for name in NAMES]
    if grad_out is None:
        with torch.no_grad():
            return function(*tensors), None
    out = function(*tensors)
    return out, torch.autograd.grad(out, tensors, grad_out)


def disagreements(functions, inputs, grad_out) -> list[str]:
    """What differs from the loop reference by more than TOLERANCE, relative to its norm; empty if all is well."""
    expected, wanted = run(loop_reference, inputs, grad_out)
    found = []
    for name, function in functions.items():
        out, grads = run(function, inputs, grad_out)
        for label, got, want in zip(("out", *NAMES), (out, *grads), (expected, *wanted), strict=True):
            error = ((got - want).norm() / want.norm()).item()
            if not error <= TOLERANCE:
                found.append(f"{name}: {label} differs from the loop reference by {error:.1e}")
    return found


def measure(arguments) -> dict[str, dict[str, float]]:
    """name -> forward_ms, training_ms (forward and backward), peak_mb of the training call above the idle process."""
    inputs = make_inputs(arguments.batch, arguments.length, arguments.dim, arguments.state)
    grad_out = torch.randn(arguments.batch, arguments.length, arguments.dim)
    functions = candidates()
    wrong = disagreements(functions, inputs, grad_out)
    if wrong:
        raise SystemExit("no speed is reported for wrong numbers:\n" + "\n".join(wrong))
    forward = interleaved_medians({n: (lambda f=f: run(f, inputs)) for n, f in functions.items()}, ROUNDS)
    training = interleaved_medians({n: (lambda f=f: run(f, inputs, grad_out)) for n, f in functions.items()}, ROUNDS)
    sizes = [str(value) for value in (arguments.batch, arguments.length, arguments.dim, arguments.state)]
    rows = {}
    for name in functions:
        peak = peak_of("benchmarks.scan", "--peak-of", name, "--sizes", *sizes)
        rows[name] = {
            "forward_ms": 1e3 * forward[name],
            "training_ms": 1e3 * training[name],
            "peak_mb": peak / 1e6,
        }
    return rows


def print_peak(name: str, sizes: list[int]) -> None:
    """Prints the bytes that one training call of `name` adds to the peak of an idle process holding the inputs."""
    inputs = make_inputs(*sizes)
    grad_out = torch.randn(sizes[:3])
    function = candidates()[name]
    run(function, make_inputs(1, 2, 8, 4), torch.zeros(1, 2, 8))  # load what is loaded on first use
    idle = peak_bytes()
    run(function, inputs, grad_out)
    print(peak_bytes() - idle)


def print_table(rows: dict[str, dict[str, float]], title: str) -> None:
    """A table with each candidate's factor over the loop reference."""
    print(title)
    print(f"{'':16} {'forward':>12} {'':>7} {'fwd + bwd':>12} {'':>7} {'peak memory':>14}")
    base = rows["loop reference"]
    for name, row in rows.items():
        factors = (base["forward_ms"] / row["forward_ms"], base["training_ms"] / row["training_ms"])
        print(
            f"{name:16} {row['forward_ms']:9.2f} ms {factors[0]:6.0f}x {row['training_ms']:9.2f} ms "
            f"{factors[1]:6.0f}x {row['peak_mb']:11.0f} MB"
        )


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--length", type=int, default=1569, help="tokens; 1569 = 8 frames of 14 x 14 and the class token"
    )
    parser.add_argument("--dim", type=int, default=384, help="channels of the scan, twice the model's width")
    parser.add_argument("--state", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as PyTorch takes by itself")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measures and prints; the exit status is 1 where the candidates disagree."""
    arguments = parse_arguments()
    if arguments.peak_of:
        print_peak(arguments.peak_of, arguments.sizes)
        return 0
    cpu.keep_freed_memory()  # for all candidates alike: the scan is to be measured, not the mapping of fresh pages
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = measure(arguments)
    sizes = f"({arguments.batch}, {arguments.length}, {arguments.dim}, {arguments.state})"
    print_table(rows, f"both scans of one layer, {sizes}, float32, {torch.get_num_threads()} threads, medians")
    if arguments.json:
        with open(arguments.json, "w") as handle:
            json.dump({"sizes": sizes, "threads": torch.get_num_threads(), "candidates": rows}, handle, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
