"""Report what each Triton kernel compiles to, without a GPU: registers, spilled bytes, instructions.

    python -m benchmarks.compile_report                          # the table, sm_80, sm_90 and sm_100
    python -m benchmarks.compile_report --write docs/gpu.md      # in the file, between its markers
    python -m benchmarks.compile_report --estimate               # what an H100 may take (--write as above)

The host code runs on tensors without data and its launches are recorded, so exactly these kernels are compiled.
"""

import argparse
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.documents import replace_between
from benchmarks.kernel_estimate import COLUMNS, estimate_line
from common.flag_parser import FlagParser
from mamba.mamba_ssm.ops.triton import causal_conv1d, layer_norm, selective_scan, state_rates
from mamba.mamba_ssm.ops.triton.launching import (
    BACKWARD_TILES,
    FORWARD_TILES,
    Launch,
    Tile,
    recorded_launches,
)

CAPABILITIES = (80, 90, 100)
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MARKERS, ESTIMATE_MARKERS = "compile report", "estimate"
SIZES = dict(batch=8, length=1569, dim=384, state=16)  # VideoMambaPro Tiny, 8 frames of 224 x 224


class Usage(NamedTuple):
    """Resources of a compiled kernel.

    Attributes:
        kernel: Name of the kernel.
        tile: Tile size.
        capability: Compute capability, 80 for 8.0.
        dtype: Type of the tokens.
        registers: Registers per thread.
        stack: Stack bytes per thread (spilled registers).
        shared: Bytes of shared memory per program.
        loop: Instructions of the longest loop.
        spills_in_loop: Loads and stores of spilled values in loops.
        outside: Instructions outside the longest loop.
        special_in_loop: Special functions (exp2, reciprocal) in the longest loop.
        special_outside: Those outside it.
    """

    kernel: str
    tile: Tile
    capability: int
    dtype: torch.dtype
    registers: int
    stack: int
    shared: int
    loop: int
    spills_in_loop: int
    outside: int
    special_in_loop: int
    special_outside: int


def scan_launches(tile: Tile, dtype: torch.dtype, backward: bool) -> list[Launch]:
    """Record the launches of the scan of a Tiny layer, with all inputs and the switches of the method."""
    batch, length, dim, state = SIZES.values()
    row = torch.empty(batch, length, dim, dtype=dtype, device="meta")
    rate = torch.empty(dim, state, device="meta")
    matrix = torch.empty(batch, length, 1, state, dtype=dtype, device="meta")
    skip = torch.empty(dim, device="meta")
    scan = selective_scan.ScanArguments(row, row, rate, rate, matrix, matrix, skip, row, skip, True, True, False, True)
    with recorded_launches() as launches:
        if backward:
            selective_scan.run_backward(row, scan, tile)
        else:
            selective_scan.run_forward(scan, tile)
    return launches


def norm_launches(dtype: torch.dtype, backward: bool) -> list[Launch]:
    """Record the launches of the fused addition and norm of a Tiny layer."""
    hidden = torch.empty(2, 1569, 192, dtype=dtype, device="meta")
    residual = torch.empty(2, 1569, 192, device="meta")
    weight = torch.empty(192, device="meta")
    with recorded_launches() as launches:
        if backward:
            layer_norm.run_backward(hidden, residual, residual, weight, weight, 1e-5, False, grad_hidden=hidden)
        else:
            layer_norm.run_forward(hidden, residual, weight, weight, 1e-5, False)
    return launches


def convolution_launches(dtype: torch.dtype) -> list[Launch]:
    """Record the launches of the short convolution of a Tiny layer, forward and backward."""
    batch, length, dim, _ = SIZES.values()
    row = torch.empty(batch, length, dim, dtype=dtype, device="meta")
    weight, bias = torch.empty(dim, 4, device="meta"), torch.empty(dim, device="meta")
    with recorded_launches() as launches:
        causal_conv1d.convolve(row, weight, bias, True)
        causal_conv1d.convolve_backward(row, row, weight, bias, True)
    return launches


def state_rate_launches() -> list[Launch]:
    """Record the launch that computes A of a Tiny layer from its logarithms, and that of its gradients."""
    log = torch.empty(SIZES["dim"], SIZES["state"], device="meta")
    with recorded_launches() as launches:
        state_rates.state_rates(log, log)
        state_rates.state_rates_backward(log, log, log, log)
    return launches


def all_launches(dtype: torch.dtype) -> list[Launch]:
    """Return each kernel with each tile that may be chosen, once: as the scan launches it, if several do."""
    launches = [launch for tile in FORWARD_TILES for launch in scan_launches(tile, dtype, backward=False)]
    launches += [launch for tile in BACKWARD_TILES for launch in scan_launches(tile, dtype, backward=True)]
    launches += (
        convolution_launches(dtype) + norm_launches(dtype, backward=False) + norm_launches(dtype, backward=True)
    )
    launches += state_rate_launches()
    unique: dict[tuple, Launch] = {}
    for launch in launches:
        unique.setdefault((launch.kernel.__name__, launch.tile, launch.arguments.get("ADJOINT")), launch)
    return list(unique.values())


def compile_launch(launch: Launch, capability: int) -> Usage:
    """Compile the kernel of a launch for a GPU of compute capability `capability` (80 is 8.0).

    Raises:
        RuntimeError: This process runs Triton's interpreter, or the kernel does not compile.
    """
    cubin = machine_code(launch, capability)
    dtype = next(
        v.dtype
        for n, v in launch.arguments.items()
        if n in ("u", "x", "hidden", "grad_normed", "grad_B", "part_1", "log")
    )
    return _read_usage(cubin, launch, capability, dtype)


def machine_code(launch: Launch, capability: int) -> bytes:
    """Return what `compile_launch` looks at: the kernel in machine code, as a cubin file."""
    if triton.knobs.runtime.interpret:
        raise RuntimeError("kernels cannot be compiled with TRITON_INTERPRET; unset it")
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
    options = {"num_warps": launch.tile.warps}
    if launch.tile.registers is not None:
        options["maxnreg"] = launch.tile.registers
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Return a kernel's registers and stack bytes per thread, and its bytes of shared memory per program."""
    told = _inspected(cubin, "cuobjdump", "--dump-resource-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", told)
    if found is None:
        raise RuntimeError(f"cuobjdump reports no resources: {told[-500:]}")
    registers, stack, shared = map(int, found.groups())
    return registers, stack, shared


def _read_usage(cubin: bytes, launch: Launch, capability: int, dtype: torch.dtype) -> Usage:
    operations, loops = _loops(_inspected(cubin, "nvdisasm", "-c"))
    longest = max(loops, key=len, default=[])
    special = sum(op.startswith("MUFU") for op in longest)
    return Usage(
        _name(launch), launch.tile, capability, dtype, *resources(cubin), len(longest),
        sum(op.startswith(("LDL", "STL")) for body in loops for op in body),
        len(operations) - len(longest), special, sum(op.startswith("MUFU") for op in operations) - special,
    )  # fmt: skip


@functools.cache
def _inspected(cubin: bytes, tool: str, flag: str) -> str:
    """Return what one of CUDA's tools says; `nvdisasm` starts for longer than most kernels compile."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([TOOLS / tool, flag, file.name], capture_output=True, text=True, check=True).stdout


def _name(launch: Launch) -> str:
    return launch.kernel.__name__ + (" with adjoints" if launch.arguments.get("ADJOINT") else "")


def _loops(assembly: str) -> tuple[list[str], list[list[str]]]:
    """Return all operations, and those between each backward branch and its target."""
    operations: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in assembly.splitlines():
        label = re.match(r"(\.L_x_\d+):", line)
        if label:
            labels[label[1]] = len(operations)
        operation = re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(.*?);", line)
        if operation:
            operations.append(operation[1])
            target = re.search(r"BRA.*?(\.L_x_\d+)", operation[1])
            if target and labels.get(target[1], len(operations)) < len(operations) - 1:
                loops.append(operations[labels[target[1]] :])
    return operations, loops


def _line(usage: Usage) -> str:
    limit = "" if usage.tile.registers is None else f" (limit {usage.tile.registers})"
    cells = (
        usage.kernel, f"{usage.tile.chunk} x {usage.tile.block}", usage.tile.warps, usage.capability,
        f"{usage.registers}{limit}", usage.stack, usage.shared, usage.loop, usage.spills_in_loop,
    )  # fmt: skip
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def table(capabilities: tuple[int, ...], dtype: torch.dtype, emit: Callable[[str], object]) -> str:
    """Return the report as a Markdown table; `emit` receives each line as soon as it is known."""
    lines = [
        "| kernel | tokens x channels | warps | sm | registers | stack | shared | longest loop | spills in it |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        emit(line)
    for launch in all_launches(dtype):
        for capability in capabilities:
            usage = compile_launch(launch, capability)
            lines.append(_line(usage))
            emit(lines[-1])
    return "\n".join(lines)


def estimates(dtype: torch.dtype, emit: Callable[[str], object]) -> str:
    """Return a Markdown table of estimated microseconds on an H100, for the tiles that are used first."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    for tile, backward in ((FORWARD_TILES[0], False), (BACKWARD_TILES[0], True)):
        found = [estimate_line(launch, compile_launch(launch, 90)) for launch in scan_launches(tile, dtype, backward)]
        lines += [text for text, _ in found]
        total = round(sum(microseconds for _, microseconds in found))
        lines.append(f"| **{'backward' if backward else 'forward'} pass** |{' |' * (len(COLUMNS) - 2)} **{total}** |")
    for text in lines:
        emit(text)
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--capabilities", type=int, nargs="+", default=CAPABILITIES, help="80 is compute capability 8.0"
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--estimate", action="store_true", help="microseconds on an H100 instead of the report")
    parser.add_argument("--write", type=Path, help="a Markdown file with the two markers")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)

    def emit(line: str) -> None:
        sys.stdout.write(line + "\n")

    text = estimates(dtype, emit) if arguments.estimate else table(tuple(arguments.capabilities), dtype, emit)
    if arguments.write is not None:
        replace_between(arguments.write, ESTIMATE_MARKERS if arguments.estimate else MARKERS, text)


if __name__ == "__main__":
    main()
