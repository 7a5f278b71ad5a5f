"""ONNX files whose operators are the C++ kernels: against PyTorch, against the readable loops, and what is refused."""

import ctypes
import json

import numpy as np
import pytest
import timm
import torch

import models.videomambapro  # noqa: F401  registers the models
from inference import load_predictor
from mamba.mamba_ssm.ops.causal_conv1d import causal_conv1d
from mamba.mamba_ssm.ops.layer_norm import add_norm
from mamba.mamba_ssm.ops.selective_scan import bidirectional_scan, kernel_library, onnx_library
from models.checkpoint_file import CONFIG_KEY
from tools import export, export_checks
from tools import export_file as tool

pytestmark = pytest.mark.slow

CLASSES = 5
TINY = dict(num_classes=CLASSES, num_frames=4, img_size=32, embed_dim=24, depth=2)


@pytest.fixture(autouse=True, scope="module")
def packages():
    """Imported here, lest runs of other tests take a second for it."""
    for package in export_checks.ONNX_PACKAGES:
        pytest.importorskip(package, reason=f"{package} is optional")


@pytest.fixture(scope="module")
def library():
    try:
        return kernel_library.build(onnx_library.LIBRARY)
    except kernel_library.ExtensionUnavailableError as error:
        pytest.skip(str(error))


def save(path, name="videomambapro_nano", **settings):
    """Save an untrained model whose answers depend on the clip, and return it."""
    torch.manual_seed(0)
    model = timm.create_model(name, **TINY | settings).eval()
    for weight in (model.head.weight, model.temporal_pos_embedding):
        torch.nn.init.normal_(weight)
    flags = {"class_names": [f"name {label}" for label in range(CLASSES)], "input_size": model.config.img_size}
    torch.save({"model": model.state_dict(), CONFIG_KEY: model.config.values(), "args": flags}, path)
    return model


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("videomambapro_nano", dict(elemental_residual=False, scan_input="raw", rms_norm=False, num_frames=1)),
        ("videomambapro_nano", dict(masked_backward=False, num_frames=8)),
        ("videomamba_tiny", dict(num_frames=16, tubelet_size=2)),  # of type v2, without both
        ("videomamba_tiny", dict(elemental_residual=True, masked_backward=True, img_size=(32, 48))),
    ],
)
def test_every_type_of_model_agrees_with_pytorch(library, tmp_path, name, settings):
    model = save(tmp_path / "c.pth", name, **settings)
    assert tool.export(tmp_path / "c.pth", tmp_path / "c.onnx", onnx_kernel=True) <= 1e-4
    run = tool.load_onnx(tmp_path / "c.onnx", tmp_path / onnx_library.FILE_NAME, threads=2)
    trained = model.num_frames
    for batch, frames in ((1, trained), (3, trained), (2, 6 if trained > 1 else 1)):
        clips = torch.randn(batch, 3, frames, *model.patch_embed.img_size)
        with torch.no_grad():
            expected = model(clips)
        assert expected.std() > 0.1
        torch.testing.assert_close(run(clips), expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def exported(library, tmp_path_factory):
    """A folder with c.pth, its export c.onnx and the library beside that."""
    folder = tmp_path_factory.mktemp("exported")
    save(folder / "c.pth")
    assert export.main([str(folder / "c.pth"), str(folder / "c.onnx"), "--onnx_kernel"]) == 0
    return folder


def test_the_file_has_the_operators_and_the_metadata_of_the_plain_file(exported):
    import onnx

    written = onnx.load(exported / "c.onnx")
    onnx.checker.check_model(written)
    sizes = written.graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in sizes] == ["batch", 3, "frames", 32, 32]
    plain = tool._metadata(load_predictor(exported / "c.pth", device="cpu", backend="portable"))
    metadata = json.loads(written.metadata_props[0].value)
    assert plain["model_config"].pop("backend") == "portable" and metadata["model_config"].pop("backend") == "cpu"
    assert metadata == json.loads(json.dumps(plain)) and metadata["label_names"][4] == "name 4"
    ours = [node.op_type for node in written.graph.node if node.domain == onnx_library.DOMAIN]
    assert sorted(ours) == sorted(["AddNorm", "BidirectionalScan", "CausalConv1d"] * TINY["depth"])
    assert {node.op_type for node in written.graph.node}.isdisjoint({"Scan", "Loop"})


def test_a_file_without_its_library_is_refused_with_the_remedy(exported):
    with pytest.raises(tool.ExportError, match=f"--onnx_kernel: register {onnx_library.FILE_NAME} first"):
        tool.load_onnx(exported / "c.onnx")


def session(library, operator, inputs, outputs, *, computed=(), **attributes):
    """A session of one operator; `inputs` maps a name to an array, or to None for an absent optional input.

    The inputs in `computed` are results of another operator, to which ONNX Runtime gives no memory if they are empty.
    """
    import onnx
    import onnxruntime

    real = onnx.TensorProto.FLOAT
    names = [name if value is not None else "" for name, value in inputs.items()]
    before = [onnx.helper.make_node("Neg", [name], [f"-{name}"]) for name in computed]
    read = [f"-{name}" if name in computed else name for name in names]
    node = onnx.helper.make_node(operator, read, outputs, domain=onnx_library.DOMAIN, **attributes)
    given = [onnx.helper.make_tensor_value_info(n, real, [None] * inputs[n].dim()) for n in names if n]
    results = [onnx.helper.make_tensor_value_info(name, real, None) for name in outputs]
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(onnx_library.DOMAIN, onnx_library.VERSION)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([*before, node], operator, given, results), opset_imports=opsets, ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run(library, operator, inputs, outputs, **attributes):
    fed = {name: value.numpy() for name, value in inputs.items() if value is not None}
    return session(library, operator, inputs, outputs, **attributes).run(None, fed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scan_inputs(batch=2, length=37, dim=36, groups=1, state=4, without=""):
    given = dict(u=draw(batch, length, dim), delta=draw(batch, length, dim, seed=1))
    given |= dict(A=-draw(dim, state).exp(), A_b=-draw(dim, state, seed=1).exp())
    given |= dict(B=draw(batch, length, groups, state), C=draw(batch, length, groups, state, seed=1))
    given |= dict(D=draw(dim), z=draw(batch, length, dim, seed=2), delta_bias=draw(dim, seed=3))
    return {name: None if name in without.split() else value for name, value in given.items()}


@pytest.mark.parametrize(
    ("sizes", "switches"),
    [
        ({}, (True, True, False, True)),
        (dict(state=3), (True, False, True, False)),  # padded
        (dict(groups=2, without="D z"), (False, False, False, False)),
        (dict(without="A"), (True, True, False, True)),
        (dict(without="A_b D delta_bias"), (True, True, True, False)),
        (dict(batch=0), (True, True, False, True)),
    ],
)
def test_the_scan_is_the_readable_loop(library, sizes, switches):
    inputs = scan_inputs(**sizes)
    if not switches[0]:  # step sizes are positive
        inputs["delta"] = inputs["delta"].abs()
        inputs["delta_bias"] = inputs["delta_bias"].abs()
    named = dict(zip(("delta_softplus", "elemental_residual", "masked", "masked_backward"), switches, strict=True))
    (out,) = run(library, "BidirectionalScan", inputs, ["out"], **{name: int(on) for name, on in named.items()})
    exact = {name: None if value is None else value.double() for name, value in inputs.items()}
    expected = bidirectional_scan(**exact, **named, backend="reference")
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "bias"), [(4, True), (3, False)])
def test_the_convolution_and_the_norm_are_those_of_pytorch(library, width, bias):
    x, weight, shift = draw(2, 70, 9), draw(9, width), draw(9) if bias else None
    (out,) = run(library, "CausalConv1d", dict(x=x, weight=weight.T.contiguous(), bias=shift), ["out"], silu=1)
    torch.testing.assert_close(torch.from_numpy(out), causal_conv1d(x, weight, shift, backend="portable"))
    residual = draw(2, 70, 9, seed=4) if bias else None
    inputs = dict(hidden=x, residual=residual, weight=weight[:, 0].contiguous(), bias=shift)
    normed, total = run(library, "AddNorm", inputs, ["normed", "total"], eps=1e-5, is_rms=int(not bias))
    expected = add_norm(x, residual, weight[:, 0], shift, 1e-5, not bias, backend="portable")
    torch.testing.assert_close((torch.from_numpy(normed), torch.from_numpy(total)), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(delta=draw(2, 37, 35)), r"delta: expected shape \(2, 37, 36\), got \(2, 37, 35\)"),
        (dict(A_b=draw(36, 5)), r"A_b: expected shape \(36, 4\), got \(36, 5\)"),
        (dict(B=draw(2, 37, 5, 4)), r"B: \(2, 37, 5, 4\) does not fit u"),
        (dict(A=None, A_b=None), "at least one direction"),
    ],
)
def test_shapes_that_do_not_fit_are_named(library, wrong, message):
    flags = dict.fromkeys(("delta_softplus", "elemental_residual", "masked", "masked_backward"), 1)
    with pytest.raises(Exception, match=message):
        run(library, "BidirectionalScan", scan_inputs() | wrong, ["out"], **flags)


def test_an_empty_tensor_without_memory_is_not_taken_for_an_absent_one(library):
    flags = dict.fromkeys(("delta_softplus", "elemental_residual", "masked", "masked_backward"), 1)
    inputs = scan_inputs() | dict(delta=draw(2, 0, 36))
    with pytest.raises(Exception, match=r"delta: expected shape \(2, 37, 36\), got \(2, 0, 36\)"):
        run(library, "BidirectionalScan", inputs, ["out"], computed=["delta"], **flags)


class ApiBase(ctypes.Structure):
    """OrtApiBase, of which the first member returns the functions of a version."""

    _fields_ = [
        ("get_api", ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_uint32)),
        ("get_version", ctypes.CFUNCTYPE(ctypes.c_size_t)),
    ]


def test_an_older_onnxruntime_is_refused_with_the_remedy(library):
    """Its first function, of every version, makes a status of a message; others are not asked for."""
    told = []
    make_status = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p)(
        lambda code, message: told.append(message.decode()) or 1
    )
    functions = (ctypes.c_void_p * 1)(ctypes.cast(make_status, ctypes.c_void_p))
    base = ApiBase()
    base.get_api = type(base.get_api)(lambda version: ctypes.addressof(functions) if version <= 16 else 0)
    version = ctypes.create_string_buffer(b"1.16.3")
    base.get_version = type(base.get_version)(lambda: ctypes.addressof(version))
    register = ctypes.CDLL(str(library)).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base)) == 1
    assert told == ["videomambapro needs onnxruntime 1.17 or later, this is 1.16.3: pip install --upgrade onnxruntime"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("c.pt2 --onnx_kernel", "c.pt2: --onnx_kernel is for .onnx files"),
        (
            "folder --format transformers --onnx_kernel",
            "--onnx_kernel is for .onnx files, not for --format transformers",
        ),
        ("c.onnx --backend cpu", "c.onnx: --backend is for .pt2 files; --onnx_kernel chooses the C++ kernels"),
        ("c.onnx --backend cpu --onnx_kernel", "c.onnx: --backend is for .pt2 files"),
        ("folder --format transformers --backend portable", "--backend is for .pt2 files, not for --format transf"),
    ],
)
def test_a_flag_of_another_format_is_refused(target, message, tmp_path, capsys):
    assert export.main([str(tmp_path / "not_opened.pth"), *target.split()]) == 1
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1


def test_without_a_compiler_the_reason_is_told_and_nothing_written(tmp_path, monkeypatch, capsys):
    save(tmp_path / "c.pth")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert export.main([str(tmp_path / "c.pth"), str(tmp_path / "c.onnx"), "--onnx_kernel"]) == 1
    assert "CXX=/nowhere/c++ is not a program on the path" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["c.pth"]


def test_a_missing_checkpoint_is_named_before_the_library_is_built(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernel_library, "build", lambda library: pytest.fail("built"))
    assert export.main([str(tmp_path / "none.pth"), str(tmp_path / "c.onnx"), "--onnx_kernel"]) == 1
    assert "none.pth: there is no such file" in capsys.readouterr().err
