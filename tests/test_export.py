"""Exported files: the ONNX scan against the readable reference, whole models against PyTorch, and what is refused."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from inference_files import save_checkpoint, write_moving_video

import models.videomambapro  # noqa: F401  registers the models
from inference import load_predictor
from mamba.mamba_ssm.ops.selective_scan import bidirectional_scan
from mamba.mamba_ssm.ops.selective_scan.kernel_library import ExtensionUnavailableError
from mamba.mamba_ssm.ops.selective_scan_interface import selective_scan_ref, selective_scan_ref_sub
from tools import export, export_checks
from tools import export_file as tool

ROOT = Path(__file__).parent.parent
FRAMES, SIDE, CLASSES = 4, 32, 5


@pytest.fixture(scope="module")
def onnx_tools():
    for name in export_checks.ONNX_PACKAGES:
        pytest.importorskip(name, reason=f"{name} is optional")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A nano model whose scans read the tokens before the convolution, which only its flags tell."""
    torch.manual_seed(0)
    size = {"num_classes": CLASSES, "num_frames": FRAMES, "img_size": SIDE, "depth": 2}
    model = timm.create_model("videomambapro_nano", scan_input="raw", **size)
    torch.nn.init.normal_(model.head.weight)
    path = tmp_path_factory.mktemp("checkpoint") / "nano.pth"
    flags = {"model": "videomambapro_nano", "scan_input": "raw", "depth": 2, "class_names": ["a", "b", "c", "d", "e"]}
    torch.save({"model": model.state_dict(), "args": flags}, path)
    return path, model.eval()


class Scan(torch.nn.Module):
    """The operator alone, with its switches."""

    def __init__(self, **switches):
        super().__init__()
        self.switches = switches

    def forward(self, *tensors):
        return bidirectional_scan(*tensors, backend="portable", **self.switches)


def reference(u, delta, A, A_b, B, C, D, z, bias, *, masked, masked_backward, elemental_residual):
    """The same by the readable loops in float64, channels first there."""
    u, delta, z = (None if t is None else t.double().transpose(1, 2) for t in (u, delta, z))
    B, C = (t.double().permute(0, 2, 3, 1) for t in (B, C))
    total = 0
    for A_one, hidden, back in ((A, masked, False), (A_b, masked_backward, True)):
        if A_one is None:
            continue
        scan = selective_scan_ref_sub if hidden else selective_scan_ref
        tensors = [t.flip(-1) if back else t for t in (u, delta)]
        matrices = [t.flip(-1) if back else t for t in (B, C)]
        y = scan(
            *tensors, A_one.double(), *matrices, None if D is None else D.double(), None,
            None if bias is None else bias.double(), True, elemental_residual=elemental_residual,
        )  # fmt: skip
        total = total + (y.flip(-1) if back else y)
    total = total if z is None else total * torch.nn.functional.silu(z)
    return total.transpose(1, 2)


@pytest.mark.parametrize(
    ("present", "switches"),
    [
        ("A A_b D z bias", dict(elemental_residual=True, masked=False, masked_backward=True)),
        ("A A_b D z bias", dict(elemental_residual=False, masked=True, masked_backward=False)),
        ("A_b z", dict(elemental_residual=True, masked=False, masked_backward=True)),
        ("A D bias", dict(elemental_residual=False, masked=False, masked_backward=False)),
    ],
)
def test_scan_in_onnx_is_the_reference_loop(onnx_tools, present, switches):
    import onnx
    import onnxruntime

    from mamba.mamba_ssm.ops.selective_scan.onnx_form import OPSET, TRANSLATIONS

    generator = torch.Generator().manual_seed(2)
    batch, length, dim, state = 2, 9, 6, 4
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    inputs = {"u": draw(batch, length, dim), "delta": draw(batch, length, dim)}
    inputs |= {"A": -draw(dim, state).exp(), "A_b": -draw(dim, state).exp()}
    inputs |= {"B": draw(batch, length, 1, state), "C": draw(batch, length, 1, state)}
    inputs |= {"D": draw(dim), "z": draw(batch, length, dim), "bias": draw(dim)}
    optional = {"A", "A_b", "D", "z", "bias"}
    tensors = [None if name in optional - set(present.split()) else value for name, value in inputs.items()]
    program = torch.onnx.export(
        Scan(**switches).eval(),
        tuple(tensors),
        custom_translation_table=TRANSLATIONS,
        opset_version=OPSET,
        verbose=False,
    )
    onnx.checker.check_model(program.model_proto)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    given = [tensor.numpy() for tensor in tensors if tensor is not None]
    out = session.run(None, dict(zip([i.name for i in session.get_inputs()], given, strict=True)))[0]
    np.testing.assert_allclose(out, reference(*tensors, **switches).numpy(), rtol=1e-4, atol=1e-5)


def test_onnx_model_is_standard_and_agrees_with_pytorch(onnx_tools, checkpoint, tmp_path, capsys):
    import onnx

    path, model = checkpoint
    assert export.main([str(path), str(tmp_path / "nano.onnx")]) == 0
    assert "of PyTorch on 10 random clips" in capsys.readouterr().out
    written = onnx.load(tmp_path / "nano.onnx")
    onnx.checker.check_model(written)
    assert {node.domain for node in written.graph.node} == {""} and not written.functions
    assert sum(node.op_type == "Scan" for node in written.graph.node) == 2 * len(model.layers)
    metadata = json.loads({entry.key: entry.value for entry in written.metadata_props}[tool.METADATA])
    assert metadata["clips"] == ["batch", 3, FRAMES, SIDE, SIDE] and metadata["label_names"][4] == "e"
    (clip,), (logits,) = written.graph.input, written.graph.output
    assert (clip.name, logits.name) == ("clips", "logits")
    assert [tensor.type.tensor_type.shape.dim[0].dim_param for tensor in (clip, logits)] == ["batch", "batch"]
    clips = torch.randn(7, 3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        torch.testing.assert_close(tool.load_onnx(tmp_path / "nano.onnx")(clips), model(clips), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def exported(onnx_tools, tmp_path_factory):
    """A folder with c.pth, of a model to which clips differ, its export, and the script of docs/export.md."""
    folder = tmp_path_factory.mktemp("exported")
    save_checkpoint(folder / "c.pth", class_names=[f"name {label}" for label in range(7)])
    tool.export(folder / "c.pth", folder / "c.onnx")
    document = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n# classify\.py\n(.*?)```", document, flags=re.S)
    (folder / "classify.py").write_text(script)
    return folder


def test_the_script_of_the_document_classifies_as_the_predictor_does(exported, tmp_path):
    """Run as a stranger would: without PyTorch and this repository, and by what the file says alone."""
    import onnx

    command_lines, expected = [], []
    for case, (height, width, count, views) in enumerate(
        [
            (48, 64, 24, {}),
            (64, 48, 5, {"sampling_rate": 3, "test_num_segment": 1, "test_num_crop": 1}),
            (40, 40, 30, {"sampling": "sparse", "test_num_crop": 1}),
            (48, 96, 30, {"sampling": "uniform"}),
            (48, 64, 3, {"sampling": "uniform", "test_num_segment": 1}),
        ]
    ):
        video = write_moving_video(tmp_path / f"{case}.mp4", count, height=height, width=width)
        predictor = load_predictor(exported / "c.pth", device="cpu", read_timeout=0, **views)
        # The views do not change the graph: one export serves all of them.
        model = onnx.load(exported / "c.onnx")
        (entry,) = model.metadata_props
        entry.value = json.dumps(tool._metadata(predictor))
        onnx.save(model, tmp_path / f"{case}.onnx")
        command_lines.append([f"{case}.onnx", str(video)])
        expected.append(predictor.predict(str(video)))
    check_script(exported / "classify.py", command_lines, tmp_path, expected)


def test_the_script_takes_the_library_of_the_kernels(exported, tmp_path):
    try:
        tool.export(exported / "c.pth", tmp_path / "c.onnx", onnx_kernel=True)
    except ExtensionUnavailableError as error:
        pytest.skip(str(error))
    video = write_moving_video(tmp_path / "v.mp4", 24)
    expected = load_predictor(exported / "c.pth", device="cpu", read_timeout=0).predict(str(video))
    words = ["c.onnx", str(video), "./videomambapro_onnx.so"]
    check_script(exported / "classify.py", [words], tmp_path, [expected])


def check_script(script, command_lines, folder, expected):
    """Run the script in a folder without PyTorch and this repository, and compare what each of its runs prints."""
    alone = f"""
import runpy, sys
sys.modules["torch"] = sys.modules["models"] = None
for words in {command_lines!r}:
    sys.argv = ["classify.py", *words]
    runpy.run_path({str(script)!r}, run_name="__main__")
    print("end", words[0])
"""
    done = subprocess.run([sys.executable, "-I", "-c", alone], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rest = done.stdout
    for (model, *_), prediction in zip(command_lines, expected, strict=True):
        printed, _, rest = rest.partition(f"end {model}\n")
        rows = [line.split(" ", 1) for line in printed.splitlines()]
        assert len(rows) == 5 and prediction.probabilities.max() > 0.2, model
        for probability, name in rows:
            wanted = prediction.probabilities[int(name.removeprefix("name "))]
            assert float(probability) == pytest.approx(wanted, abs=3e-3), model
    assert not rest


def test_exported_program_has_the_operator_as_one_node(checkpoint, tmp_path):
    path, model = checkpoint
    target = tmp_path / "nano.pt2"
    assert tool.export(path, target, backend="portable") <= 1e-4
    extra = {tool.METADATA: ""}
    program = torch.export.load(target, extra_files=extra)
    scans = [node for node in program.graph.nodes if "bidirectional_scan" in str(node.target)]
    assert len(scans) == len(model.layers), "both directions in one"
    assert json.loads(extra[tool.METADATA])["clips"][2] == FRAMES
    clips = torch.randn(5, 3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(clips), model(clips), atol=1e-4, rtol=0)


def test_names_and_recipe_of_the_command_are_in_the_file(checkpoint, tmp_path):
    names = ["one", "two", "three", "four", "five"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    flags = ["--label_names", str(tmp_path / "names.txt"), "--recipe", "ssv2", "--backend", "portable"]
    assert export.main([str(checkpoint[0]), str(tmp_path / "nano.pt2"), *flags]) == 0
    extra = {tool.METADATA: ""}
    torch.export.load(tmp_path / "nano.pt2", extra_files=extra)
    found = json.loads(extra[tool.METADATA])
    expected = tool._metadata(load_predictor(checkpoint[0], device="cpu", backend="portable", recipe="ssv2"))
    assert found == expected | {"label_names": names}
    assert found["sampling"] != tool._metadata(load_predictor(checkpoint[0], device="cpu"))["sampling"]


@pytest.mark.parametrize("flag", ["results", "name", "data", "license"])
def test_a_file_has_no_model_card(checkpoint, tmp_path, capsys, flag):
    assert export.main([str(checkpoint[0]), str(tmp_path / "nano.pt2"), f"--{flag}", "x"]) == 1
    assert f"--{flag}: of the model card of a folder; omit, or export one with --format" in capsys.readouterr().err


def test_a_file_that_differs_is_not_kept(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.export, "export", lambda *arguments, **options: None)
    monkeypatch.setattr(tool, "_write_pt2", lambda program, metadata, file: file.write(b"wrong"))
    monkeypatch.setattr(tool, "load_pt2", lambda path: lambda clips: torch.full((len(clips), CLASSES), torch.nan))
    assert export.main([str(checkpoint[0]), str(tmp_path / "nano.pt2")]) == 1
    assert "would differ from PyTorch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_with_their_remedy(checkpoint, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        export_checks.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    assert export.main([str(checkpoint[0]), str(tmp_path / "nano.onnx")]) == 1
    assert "pip install onnxscript" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "switches", "said"),
    [
        ("c.tflite", {}, "must be .onnx or .pt2"),
        ("c.pt2", {"onnx_kernel": True}, "--onnx_kernel is for .onnx files"),
        ("c.onnx", {"backend": "cpu"}, "--backend is for .pt2 files"),
    ],
)
def test_the_function_refuses_what_the_command_refuses(checkpoint, tmp_path, target, switches, said):
    with pytest.raises(ValueError, match=said):
        tool.export(checkpoint[0], tmp_path / target, **switches)
    assert list(tmp_path.iterdir()) == []


def test_other_formats_and_headless_files_are_refused(checkpoint, tmp_path, capsys):
    assert export.main([str(checkpoint[0]), str(tmp_path / "nano.tflite")]) == 1
    assert ".onnx or .pt2" in capsys.readouterr().err
    headless = {name: t for name, t in checkpoint[1].state_dict().items() if not name.startswith("head.")}
    torch.save(headless, tmp_path / "headless.pth")
    assert export.main([str(tmp_path / "headless.pth"), str(tmp_path / "nano.pt2")]) == 1
    assert "has no head" in capsys.readouterr().err
