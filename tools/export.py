"""Export a checkpoint to ONNX, torch.export or transformers, and check the result against PyTorch before it is kept.

    python -m tools.export CHECKPOINT model.onnx    standard ONNX operators, the scan as a loop; runs without this code
    python -m tools.export CHECKPOINT model.onnx --onnx_kernel    the C++ kernels as operators of ONNX Runtime, many
                                                    times faster on a CPU; their library is put beside the file
    python -m tools.export CHECKPOINT model.pt2     torch.export, the scan as one operator of this repository
    python -m tools.export CHECKPOINT DIR --format transformers    a folder with the code, for pipeline(...) anywhere

The input of files is float32 (batch, 3, frames, height, width), normalised as in training, with any batch size, and
with any number of frames for --onnx_kernel if the model is for more than one tubelet.
docs/export.md describes how to use the files, docs/hub.md the folder.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch.export import Dim, ExportedProgram

from common.files import atomic_write
from common.flag_parser import FlagParser
from common.flag_types import positive
from common.terminal import escape_output
from inference import Predictor, load_predictor
from inference.description import describe_reading
from mamba.mamba_ssm.ops.selective_scan import kernel_library, onnx_library
from mamba.mamba_ssm.ops.selective_scan.dispatch import BACKENDS, BackendUnavailableError
from tools.comparison import BATCHES, Forward, largest_difference, random_clips
from tools.hub_folder import add_card_arguments

METADATA = "videomambapro.json"  # name of the metadata in both formats
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ExportError(RuntimeError):
    """The file cannot be written, or does not agree with PyTorch; the message gives the remedy."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help=".pth or .safetensors, published or our own")
    parser.add_argument("target", type=Path, help="output file, .onnx or .pt2, or a new folder")
    parser.add_argument("--format", choices=("transformers",), help="of a folder (files: their suffix tells)")
    parser.add_argument(
        "--backend",
        choices=sorted(BACKENDS),
        help="backend of the scan in a .pt2 file (default: the fastest available; portable runs everywhere)",
    )
    parser.add_argument(
        "--onnx_kernel",
        action="store_true",
        help=f"compute an .onnx file with the C++ kernels, whose library {onnx_library.FILE_NAME} is put beside it",
    )
    parser.add_argument(
        "--tolerance", type=positive, default=1e-4, help="largest allowed difference of a logit (default: 1e-4)"
    )
    add_card_arguments(parser.add_argument_group("model card of a folder"))
    options = parser.parse_args(arguments)
    try:
        if options.format == "transformers":
            if options.onnx_kernel:
                raise ExportError("--onnx_kernel is for .onnx files, not for --format transformers")
            if options.backend:
                raise ExportError("--backend is for .pt2 files, not for --format transformers")
            print(_export_folder(options))
            return 0
        difference = export(
            options.checkpoint,
            options.target,
            backend=options.backend,
            onnx_kernel=options.onnx_kernel,
            tolerance=options.tolerance,
        )
    except (
        ExportError,
        BackendUnavailableError,
        kernel_library.ExtensionUnavailableError,
        OSError,
        ValueError,
    ) as error:
        print(error, file=sys.stderr)
        return 1
    size = options.target.stat().st_size / 2**20
    print(f"{options.target}: {size:.1f} MiB, within {difference:.1e} of PyTorch on {sum(BATCHES)} random clips")
    if options.onnx_kernel:
        print(f"{_library_beside(options.target)}: the library to register with it (docs/export.md)")
    return 0


def _export_folder(options: argparse.Namespace) -> str:
    if importlib.util.find_spec("transformers") is None:
        raise ExportError("--format transformers needs transformers: pip install transformers")
    from tools.transformers_folder.folder import export_folder

    difference, origin = export_folder(options.checkpoint, options.target, options)
    return f"{options.target}: within {difference:.1e} of PyTorch on {sum(BATCHES)} random clips; {origin}"


def export(
    checkpoint: Path,
    target: Path,
    *,
    backend: str | None = None,
    onnx_kernel: bool = False,
    tolerance: float = 1e-4,
) -> float:
    """Write `target` if it agrees with PyTorch on ten random clips, and return the largest difference of a logit.

    Args:
        checkpoint: as in `load_predictor`.
        target: .onnx or .pt2; the suffix determines the format.
        backend: of the scan in a .pt2 file.
        onnx_kernel: compute an .onnx file with the C++ kernels, and write their library beside it.
        tolerance: largest allowed difference.

    Raises:
        ExportError: the suffix is unknown or does not go with `backend` or `onnx_kernel`, a package is missing, or the
            difference is too large; nothing is written.
        BackendUnavailableError: the backend is not available; `load_predictor` raises further errors.
        ExtensionUnavailableError: the library of the kernels cannot be built.
    """
    if target.suffix not in (".onnx", ".pt2"):
        raise ExportError(f"{target}: the target must be .onnx or .pt2, or a folder with --format transformers")
    to_onnx = target.suffix == ".onnx"
    if onnx_kernel and not to_onnx:
        raise ExportError(f"{target}: --onnx_kernel is for .onnx files")
    if backend and to_onnx:
        raise ExportError(f"{target}: --backend is for .pt2 files; --onnx_kernel chooses the C++ kernels")
    if to_onnx:
        check_onnx_packages()
        backend = "cpu" if onnx_kernel else "portable"
    predictor = load_predictor(checkpoint, device="cpu", backend=backend)
    library = kernel_library.build(onnx_library.LIBRARY) if onnx_kernel else None
    model, metadata = predictor.model, json.dumps(_metadata(predictor))
    sizes: dict[int, Any] = {0: Dim("batch")}
    # The loop over tokens of other files is written for one length, and torch.export never leaves a size of 1 open.
    if onnx_kernel and model.num_frames > model.config.tubelet_size:
        sizes[2] = _multiple_of(model.config.tubelet_size)
    with torch.no_grad():
        program = torch.export.export(model, (random_clips(model, 2),), dynamic_shapes=(sizes,))
    with atomic_write(target) as file:
        if to_onnx:
            _write_onnx(program, metadata, file, onnx_kernel)
        else:
            _write_pt2(program, metadata, file)
        file.flush()
        exported = load_onnx(file.name, library) if to_onnx else load_pt2(file.name)
        difference = largest_difference(model, exported)
        if not difference <= tolerance:
            raise ExportError(
                f"{target} would differ from PyTorch by {difference:.2g}, more than {tolerance:.2g}; it is not kept"
            )
        if onnx_kernel:
            onnx_library.copy_library(_library_beside(target))
    return difference


def _multiple_of(tubelet_size: int) -> Any:
    """Return the dimension of frames, any number of whole tubelets."""
    tubelets = Dim("tubelets", min=1)
    return tubelet_size * tubelets if tubelet_size > 1 else tubelets


def _library_beside(target: Path) -> Path:
    return target.with_name(onnx_library.FILE_NAME)


def check_onnx_packages() -> None:
    """Raise an ExportError that names the packages to install if any are missing."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"ONNX export needs {', '.join(missing)}: pip install {' '.join(missing)}")


def load_onnx(path: str | Path, library: str | Path | None = None, threads: int = 0) -> Forward:
    """Return the model of an .onnx file as a function of clips, run by onnxruntime on the CPU.

    Args:
        path: of the file.
        library: of its operators, for a file that was exported with the kernels.
        threads: of an operator; 0: as onnxruntime chooses.

    Raises:
        ExportError: the file needs a library, and none is given.
    """
    import onnxruntime  # an optional dependency

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(str(library))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if library is None and f"{onnx_library.DOMAIN}:" in str(error):
            raise ExportError(
                f"{path} was exported with --onnx_kernel: register {onnx_library.FILE_NAME} first (docs/export.md)"
            ) from error
        raise
    return lambda clips: torch.from_numpy(session.run(None, {"clips": clips.numpy()})[0])


def load_pt2(path: str | Path) -> Forward:
    """Return the model of a .pt2 file as a function of clips."""
    with open(path, "rb") as file:
        return torch.export.load(file).module()


def _write_onnx(program: ExportedProgram, metadata: str, file: IO[bytes], onnx_kernel: bool) -> None:
    # Imported here because onnxscript is optional.
    if onnx_kernel:
        from mamba.mamba_ssm.ops.selective_scan.onnx_kernel_form import OPSET, TRANSLATIONS
    else:
        from mamba.mamba_ssm.ops.selective_scan.onnx_form import OPSET, TRANSLATIONS

    result = torch.onnx.export(
        program,
        input_names=["clips"],
        output_names=["logits"],
        custom_translation_table=TRANSLATIONS,
        opset_version=OPSET,
        verbose=False,
    )
    result.model.metadata_props[METADATA] = metadata
    proto = result.model_proto
    for tensor in (*proto.graph.input, *proto.graph.output):
        for size, name in zip(tensor.type.tensor_type.shape.dim, ("batch", "channels", "frames"), strict=False):
            if size.dim_param:
                size.dim_param = name  # torch.export has a name of its own for it
    file.write(proto.SerializeToString())


def _write_pt2(program: ExportedProgram, metadata: str, file: IO[bytes]) -> None:
    torch.export.save(program, file, extra_files={METADATA: metadata})


def _metadata(predictor: Predictor) -> dict:
    """Return what is needed to feed the model and is not in the graph; docs/export.md explains the entries."""
    return {
        "clips": ["batch", *predictor.plan.clip_shape],
        **describe_reading(predictor),
        "task": predictor.task,
        **predictor.objective.beyond_the_model(),
        "label_names": list(predictor.label_names),
        "model_config": predictor.model.config.values(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
