"""Write an exported model, ONNX or torch.export, and compare it with PyTorch (the work of `tools.export`)."""

import argparse
import json
import math
from pathlib import Path
from typing import IO, Any

import torch
from torch.export import Dim, ExportedProgram

from common.files import atomic_write
from common.frame_size import as_pair
from inference import Predictor, load_predictor
from inference.description import describe_reading
from mamba.mamba_ssm.ops.selective_scan import kernel_library, onnx_library
from mamba.mamba_ssm.ops.selective_scan.dispatch import BackendUnavailableError
from tools.comparison import BATCHES, Forward, largest_difference, random_clips
from tools.export_checks import check_file_export

METADATA = "videomambapro.json"  # name of the metadata in both formats


class ExportError(ValueError):
    """The file cannot be written, or does not agree with PyTorch; the message gives the remedy."""


def run_export(options: argparse.Namespace) -> str:
    """Write the file or the folder that the flags of `tools.export` ask for, and return a report of it.

    Raises:
        ExportError: The backend or the kernels' library is not available; `export` and `export_folder` raise more.
    """
    checkpoint, target = options.checkpoint, options.target
    if options.format == "transformers":
        from tools.transformers_folder.folder import export_folder  # transformers is optional

        difference, origin = export_folder(checkpoint, target, options)
        return f"{target}: {_agreement(difference)}; {origin}"
    names = ("backend", "onnx_kernel", "label_names", "recipe", "tolerance")
    switches = {name: getattr(options, name) for name in names}
    try:
        difference = export(checkpoint, target, **switches)
    except (BackendUnavailableError, kernel_library.ExtensionUnavailableError) as error:
        raise ExportError(str(error)) from error
    report = f"{target}: {target.stat().st_size / 2**20:.1f} MiB, {_agreement(difference)}"
    if options.onnx_kernel:
        report += f"\n{_library_beside(target)}: the library to register with it (docs/export.md)"
    return report


def _agreement(difference: float) -> str:
    return f"within {difference:.1e} of PyTorch on {sum(BATCHES)} random clips"


def export(
    checkpoint: Path,
    target: Path,
    *,
    backend: str | None = None,
    onnx_kernel: bool = False,
    label_names: str = "",
    recipe: str = "",
    tolerance: float = 1e-4,
) -> float:
    """Write `target` if it agrees with PyTorch on ten random clips, and return the largest difference of a logit.

    Args:
        checkpoint: as in `load_predictor`.
        target: .onnx or .pt2; the suffix determines the format.
        backend: of the scan in a .pt2 file.
        onnx_kernel: compute an .onnx file with the C++ kernels, and write their library beside it.
        label_names: file with a name per class, for the metadata; empty for those in the checkpoint.
        recipe: of sampling and views, for the metadata; empty for those in the checkpoint.
        tolerance: largest allowed difference.

    Raises:
        ValueError: as `check_file_export`.
        ExportError: the difference is too large; nothing is written.
        BackendUnavailableError: the backend is not available; `load_predictor` raises further errors.
        ExtensionUnavailableError: the library of the kernels cannot be built.
    """
    check_file_export(checkpoint, target, backend=backend, onnx_kernel=onnx_kernel)
    to_onnx = target.suffix == ".onnx"
    if to_onnx:
        backend = "cpu" if onnx_kernel else "portable"
    predictor = load_predictor(checkpoint, device="cpu", backend=backend, label_names=label_names, recipe=recipe)
    library = kernel_library.build(onnx_library.LIBRARY) if onnx_kernel else None
    model, metadata = predictor.model, json.dumps(_metadata(predictor))
    sizes: dict[int, Any] = {0: Dim("batch")}
    # The loop over tokens of other files is written for one length, and torch.export never leaves a size of 1 open.
    if onnx_kernel and model.num_frames > model.config.tubelet_size:
        sizes[2] = _frames(model)
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


def _frames(model: torch.nn.Module) -> Any:
    """Return the dimension of frames: any number of whole tubelets whose values a 32-bit integer counts."""
    size = model.config.tubelet_size
    values = 3 * size * math.prod(as_pair(model.config.img_size))
    tubelets = Dim("tubelets", min=1, max=torch.iinfo(torch.int32).max // values)
    return size * tubelets if size > 1 else tubelets


def _library_beside(target: Path) -> Path:
    return target.with_name(onnx_library.FILE_NAME)


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
