"""Build and load the C++ kernel of the backend "cpu", at its first use or in advance with python -m (`make setup`).

The kernel is a shared library that registers PyTorch operators. It needs only a C++ compiler and the headers in the
torch package, no Python headers and no build system. The kernel sources are compiled once per instruction set into the
same library, which chooses among them at run time, so a library also works on other processors. The library's name
contains a hash of all inputs (sources, flags, compiler, torch, architecture): any change builds another library, and
machines can share a home directory.

Environment variables: CXX, the compiler; VIDEOMAMBAPRO_BUILD_DIR, the folder of the libraries (default: build/ in the
repository, or ~/.cache/videomambapro if that is not writable); VIDEOMAMBAPRO_SANITIZE=address, a build for
AddressSanitizer, whose run-time library must then be preloaded (`make test-asan`).
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

SOURCE_DIR = Path(__file__).resolve().parents[3] / "csrc"
BUILD_DIR_VARIABLE = "VIDEOMAMBAPRO_BUILD_DIR"
SANITIZE_VARIABLE = "VIDEOMAMBAPRO_SANITIZE"

# Compiled for any processor of the architecture, against PyTorch's headers.
OPERATOR_SOURCES = ("operators.cpp", "norm_operators.cpp", "probe_operators.cpp")
# Compiled once per instruction set.
KERNEL_SOURCES = ("scan_forward.cpp", "scan_backward.cpp", "conv.cpp", "norm.cpp", "probe.cpp", "table.cpp")
X86_INSTRUCTION_SETS = {
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma"),
    "avx2": ("-mavx2", "-mfma"),
    "baseline": (),
}
OTHER_INSTRUCTION_SETS = {"baseline": ()}  # every aarch64 processor has NEON
COMMON_FLAGS = ("-std=c++20", "-fPIC", "-fvisibility=hidden", "-w")
# Contraction is allowed, reassociation is not: the kernels' range reductions rely on the order of additions.
KERNEL_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
OPERATOR_FLAGS = ("-O2", "-fopenmp")
COMPILE_SECONDS = 600

_outcome: list[str | None] = []  # result of the only attempt to load


class ExtensionUnavailableError(RuntimeError):
    """The C++ kernel cannot be built or loaded; the message gives the reason and the remedy."""


def find_compiler() -> str:
    """Find the C++ compiler: $CXX, or else the first of c++, g++, clang++ on the path.

    Raises:
        ExtensionUnavailableError: There is none.
    """
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        path = shutil.which(name)
        if path is not None:
            return path
    missing = (
        f"CXX={named} is not a program on the path" if named else "no C++ compiler (c++, g++, clang++) on the path"
    )
    raise ExtensionUnavailableError(f"{missing}; install one, for example `apt-get install g++`, or set CXX")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExtensionUnavailableError(f"{command[0]} did not run: {error}") from error
    if done.returncode != 0:
        shown = "\n".join(done.stderr.splitlines()[:12])
        raise ExtensionUnavailableError(
            f"the C++ compiler failed (exit {done.returncode}): {' '.join(command)}\n{shown}\n"
            "GCC or Clang with C++20 is required; set CXX to use another compiler"
        )
    return done.stdout


def _sanitize_flags() -> tuple[str, ...]:
    kind = os.environ.get(SANITIZE_VARIABLE, "")
    if kind not in ("", "address"):
        raise ExtensionUnavailableError(f"{SANITIZE_VARIABLE} must be 'address' or unset, got {kind!r}")
    return ("-fsanitize=address", "-fno-omit-frame-pointer", "-g", "-O1") if kind else ()


def instruction_sets() -> dict[str, tuple[str, ...]]:
    """Return the compiler flags of all instruction sets that the library supports on this architecture."""
    return X86_INSTRUCTION_SETS if platform.machine() in ("x86_64", "AMD64") else OTHER_INSTRUCTION_SETS


def build_key(compiler: str) -> str:
    """Hash everything that determines the library: sources, flags, compiler, torch and its ABI, architecture."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE_DIR.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    torch_build, machine = (
        (torch.__version__, torch.compiled_with_cxx11_abi()),
        (platform.system(), platform.machine()),
    )
    flags = (COMMON_FLAGS, KERNEL_FLAGS, OPERATOR_FLAGS, instruction_sets(), _sanitize_flags())
    digest.update(repr((*torch_build, *machine, _run([compiler, "--version"]), *flags)).encode())
    return digest.hexdigest()[:16]


def build_dir() -> Path:
    """Return the directory of the libraries, creating it if necessary.

    Raises:
        ExtensionUnavailableError: None of the candidates is writable.
    """
    named = os.environ.get(BUILD_DIR_VARIABLE)
    repository = SOURCE_DIR.parents[1] / "build"
    candidates = [Path(named)] if named else [repository, Path.home() / ".cache" / "videomambapro"]
    for path in candidates:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(path, os.W_OK):
            return path
    tried = ", ".join(map(str, candidates))
    raise ExtensionUnavailableError(f"no writable build directory ({tried}); set {BUILD_DIR_VARIABLE}")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Prevent other processes from building the same library at the same time."""
    with open(directory / "extension.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _compile_commands(compiler: str, folder: Path) -> list[list[str]]:
    """Return one command per object file, each writing to `folder`."""

    def command(source: str, output: str, *flags: str) -> list[str]:
        paths = ["-c", str(SOURCE_DIR / source), "-o", str(folder / output)]
        return [compiler, *COMMON_FLAGS, *flags, *_sanitize_flags(), *paths]

    include = Path(torch.__file__).parent / "include"
    headers = [f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    commands = [command(source, f"{source}.o", *OPERATOR_FLAGS, abi, *headers) for source in OPERATOR_SOURCES]
    for name, flags in instruction_sets().items():
        defined = f"-DVMP_ISA={name}"
        commands += [
            command(source, f"{source}.{name}.o", *KERNEL_FLAGS, *flags, defined) for source in KERNEL_SOURCES
        ]
    return commands


def _link_command(compiler: str, folder: Path, output: Path) -> list[str]:
    # OpenMP's symbols are resolved by PyTorch's copy, because a second run-time would start a second set of threads.
    library_dir = Path(torch.__file__).parent / "lib"
    objects = sorted(str(path) for path in folder.glob("*.o"))
    libraries = [f"-L{library_dir}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{library_dir}"]
    return [compiler, "-shared", *_sanitize_flags(), "-o", str(output), *objects, *libraries]


def library_path() -> Path:
    """Return the path of the library for this source, compiler and torch, built or not."""
    return build_dir() / f"vmp_cpu-{build_key(find_compiler())}.so"


def build() -> Path:
    """Build the library unless it exists, and return its path.

    Raises:
        ExtensionUnavailableError: There is no compiler, it fails, or no directory is writable.
    """
    path = library_path()
    if path.exists():
        return path
    compiler = find_compiler()
    with _locked(path.parent):
        if path.exists():  # another process built it while this one waited
            return path
        logger.warning("building the C++ kernel for %s (only once) in %s", platform.machine(), path.parent)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            folder = Path(name)
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                list(pool.map(_run, _compile_commands(compiler, folder)))
            _run(_link_command(compiler, folder, folder / path.name))
            os.replace(folder / path.name, path)
        logger.warning("built the C++ kernel in %.0f s", time.perf_counter() - began)
    return path


def _build_and_load() -> str | None:
    try:
        path = build()
        torch.ops.load_library(str(path))
    except ExtensionUnavailableError as error:
        return str(error)
    except OSError as error:
        return f"the library {path} cannot be loaded: {error}; remove it to rebuild it"
    return None


def load_failure() -> str | None:
    """Build (on first use) and load the library; return None or why that failed, the same in every call."""
    # A list instead of functools.cache, through which torch.compile would try to trace the build.
    if not _outcome:
        _outcome.append(_build_and_load())
    return _outcome[0]


def load() -> None:
    """Make torch.ops.vmp_cpu available, building the library on first use; later calls cost nothing.

    Raises:
        ExtensionUnavailableError: The library cannot be built or loaded.
    """
    reason = load_failure()
    if reason is not None:
        raise ExtensionUnavailableError(reason)


def main() -> int:
    """Build and load the library; return 0 even if that fails, because the portable backend works without it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        load()
    except ExtensionUnavailableError as error:
        logger.warning("the C++ kernel is not available, plain PyTorch is used instead: %s", error)
    else:
        chosen = torch.ops.vmp_cpu.use_instruction_set("")
        logger.info("the C++ kernel is ready: %s, instruction set %s", library_path(), chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
