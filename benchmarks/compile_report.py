"""Report what each Triton kernel compiles to, without a GPU: registers, spilled bytes, instructions.

    python -m benchmarks.compile_report                          # the table, sm_80, sm_90 and sm_100
    python -m benchmarks.compile_report --write docs/gpu.md      # in the file, between its markers

The host code runs on tensors without data and its launches are recorded, so exactly these kernels are compiled.
"""

import argparse
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

from common.flag_parser import FlagParser
from mamba.mamba_ssm.ops.triton import causal_conv1d, layer_norm, selective_scan
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
BEGIN, END = "<!-- compile report: begin -->", "<!-- compile report: end -->"
SIZES = dict(batch=2, length=1569, dim=384, state=16)  # VideoMambaPro Tiny, 8 frames of 224 x 224


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
            layer_norm.run_backward(hidden, residual, residual, weight, weight, 1e-5, False)
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


def all_launches(dtype: torch.dtype) -> list[Launch]:
    """Return each kernel with each tile that may be chosen, once."""
    launches = [launch for tile in FORWARD_TILES for launch in scan_launches(tile, dtype, backward=False)]
    launches += [launch for tile in BACKWARD_TILES for launch in scan_launches(tile, dtype, backward=True)]
    launches += (
        convolution_launches(dtype) + norm_launches(dtype, backward=False) + norm_launches(dtype, backward=True)
    )
    unique = {(launch.kernel.__name__, launch.tile, launch.arguments.get("ADJOINT")): launch for launch in launches}
    return list(unique.values())


def compile_launch(launch: Launch, capability: int) -> Usage:
    """Compile the kernel of a launch for a GPU of compute capability `capability` (80 is 8.0).

    Raises:
        RuntimeError: This process runs Triton's interpreter, or the kernel does not compile.
    """
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
    cubin = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]
    dtype = next(v.dtype for n, v in launch.arguments.items() if n in ("u", "x", "hidden", "grad_normed", "grad_B", "buffer"))
    return _read_usage(cubin, launch, capability, dtype)


def _read_usage(cubin: bytes, launch: Launch, capability: int, dtype: torch.dtype) -> Usage:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        resources = _run("cuobjdump", "--dump-resource-usage", file.name)
        assembly = _run("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", resources)
    if found is None:
        raise RuntimeError(f"cuobjdump reports no resources of {launch.kernel.__name__}: {resources[-500:]}")
    loops = _loops(assembly)
    return Usage(
        _name(launch), launch.tile, capability, dtype, *(int(number) for number in found.groups()),
        max((len(body) for body in loops), default=0),
        sum(op.startswith(("LDL", "STL")) for body in loops for op in body),
    )  # fmt: skip


def _name(launch: Launch) -> str:
    return launch.kernel.__name__ + (" with adjoints" if launch.arguments.get("ADJOINT") else "")


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout


def _loops(assembly: str) -> list[list[str]]:
    """Return the operations between each backward branch and its target."""
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
    return loops


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


def write_table(path: Path, text: str) -> None:
    """Replace the text between the two markers of a file.

    Raises:
        ValueError: A marker is missing.
    """
    content = path.read_text()
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise ValueError(f"{path}: must contain each of the lines {BEGIN!r} and {END!r} once")
    head, rest = content.split(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main() -> None:
    """Run the command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--capabilities", type=int, nargs="+", default=CAPABILITIES, help="80 is compute capability 8.0"
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--write", type=Path, help="a Markdown file with the two markers")
    arguments = parser.parse_args()
    text = table(
        tuple(arguments.capabilities), getattr(torch, arguments.dtype), lambda line: sys.stdout.write(line + "\n")
    )
    if arguments.write is not None:
        write_table(arguments.write, text)


if __name__ == "__main__":
    main()
