"""Build shared libraries of the C++ kernels of mamba/csrc, each behind the operators of one framework.

    python mamba/mamba_ssm/ops/selective_scan/kernel_library.py

compiles the kernels in advance, which needs nothing but Python and a compiler: `make setup` does so while PyTorch is
still being installed. Run by its path, this file does not import the packages around it, which need PyTorch.

A library takes a C++ compiler and the framework's headers, no Python headers and no build system. The kernel sources
are compiled once per instruction set; the library chooses among them at run time, so it runs on other processors, too.
File names contain a hash of all inputs (sources, flags, compiler, framework, architecture): any change builds another
file, and machines can share a home directory. The compiled kernels are kept, so that a second library or another
framework version only needs its operators compiled.

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
from typing import NamedTuple

logger = logging.getLogger(__name__)

SOURCE_DIR = Path(__file__).resolve().parents[3] / "csrc"
BUILD_DIR_VARIABLE = "VIDEOMAMBAPRO_BUILD_DIR"
SANITIZE_VARIABLE = "VIDEOMAMBAPRO_SANITIZE"

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
COMPILE_SECONDS = 600


class ExtensionUnavailableError(RuntimeError):
    """The C++ kernel cannot be built or loaded; the message gives the reason and the remedy."""


class Library(NamedTuple):
    """Operators of a framework that call the kernels.

    Attributes:
        name: Start of the file name.
        sources: Compiled for any processor of the architecture, all in one go, because reading the framework's headers
            takes most of the time.
        flags: Of the compiler, for `sources`.
        link_flags: Of the linker.
        framework: Version of the framework and whatever else of it determines the library.
    """

    name: str
    sources: tuple[str, ...]
    flags: tuple[str, ...]
    link_flags: tuple[str, ...] = ()
    framework: tuple[object, ...] = ()


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
    """Return the compiler flags of all instruction sets that a library supports on this architecture."""
    return X86_INSTRUCTION_SETS if platform.machine() in ("x86_64", "AMD64") else OTHER_INSTRUCTION_SETS


def build_key(compiler: str, library: Library | None = None) -> str:
    """Hash everything that determines a library, or the compiled kernels alone if `library` is None."""
    digest = hashlib.sha256()
    sources = (*KERNEL_SOURCES, *(library.sources if library else ()))
    for path in sorted(SOURCE_DIR.iterdir()):
        if path.suffix == ".h" or path.name in sources:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    machine = (platform.system(), platform.machine(), _run([compiler, "--version"]))
    digest.update(
        repr((*machine, COMMON_FLAGS, KERNEL_FLAGS, instruction_sets(), _sanitize_flags(), library)).encode()
    )
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
    """Prevent other processes from building the same files at the same time."""
    with open(directory / "extension.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def library_path(library: Library) -> Path:
    """Return the path of the library for this source, compiler and framework, built or not."""
    return build_dir() / f"{library.name}-{build_key(find_compiler(), library)}.so"


def build(library: Library) -> Path:
    """Build the library unless it exists, and return its path.

    Raises:
        ExtensionUnavailableError: There is no compiler, it fails, or no directory is writable.
    """
    path = library_path(library)
    if path.exists():
        return path
    compiler = find_compiler()
    with _locked(path.parent):
        if path.exists():  # another process built it while this one waited
            return path
        logger.warning("building the C++ kernel for %s (only once): %s", platform.machine(), path)
        began = time.perf_counter()
        linker = [compiler, "-shared", *_sanitize_flags(), str(_compiled_kernels(compiler)), *library.link_flags]
        _compile(operator_commands(compiler, library), linker, path)
        logger.warning("built the C++ kernel in %.0f s", time.perf_counter() - began)
    return path


def build_kernels() -> Path:
    """Compile the kernels, without any framework's operators, unless they exist; return the path of the object file.

    Raises:
        ExtensionUnavailableError: As for `build`.
    """
    with _locked(build_dir()):
        return _compiled_kernels(find_compiler())


def _compiled_kernels(compiler: str) -> Path:
    path = build_dir() / f"vmp_kernels-{build_key(compiler)}.o"
    if not path.exists():
        _compile(kernel_commands(compiler), [compiler, "-r", "-nostdlib"], path)
    return path


def kernel_commands(compiler: str) -> dict[str, list[str]]:
    """Return the command of each object file of the kernels, without the file's path, by its name."""
    return {
        f"{source}.{name}.o": _command(compiler, source, *KERNEL_FLAGS, *flags, f"-DVMP_ISA={name}")
        for name, flags in instruction_sets().items()
        for source in KERNEL_SOURCES
    }


def operator_commands(compiler: str, library: Library) -> dict[str, list[str]]:
    """Return the command of the object file of a library's operators, without the file's path, by its name."""
    *others, last = library.sources
    included = [word for source in others for word in ("-include", str(SOURCE_DIR / source))]
    return {f"{library.name}.o": _command(compiler, last, *library.flags, *included)}


def _command(compiler: str, source: str, *flags: str) -> list[str]:
    return [compiler, *COMMON_FLAGS, *flags, *_sanitize_flags(), "-c", str(SOURCE_DIR / source)]


def _compile(commands: dict[str, list[str]], linker: list[str], path: Path) -> None:
    """Run the compiler's commands at the same time, and link their objects to `path`, which appears when complete."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        objects = {str(Path(name) / file): command for file, command in commands.items()}
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(_run, ([*command, "-o", file] for file, command in objects.items())))
        # Objects come before libraries, which only give what was asked for before them.
        _run([linker[0], *objects, *linker[1:], "-o", str(Path(name) / path.name)])
        os.replace(Path(name) / path.name, path)


def main() -> int:
    """Compile the kernels; return 0 even if that fails, because the build of a library then says why."""
    with contextlib.suppress(ExtensionUnavailableError):
        build_kernels()
    return 0


if __name__ == "__main__":
    sys.exit(main())
