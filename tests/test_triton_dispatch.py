"""The backend chosen for a CUDA tensor, and torch.compile with that choice."""

import pytest
import torch

from mamba.mamba_ssm.ops.selective_scan import dispatch, stock, triton
from models import VideoMambaPro


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.delenv(dispatch.BACKEND_VARIABLE, raising=False)
    dispatch._automatic_choice.cache_clear()
    yield
    dispatch._automatic_choice.cache_clear()


@pytest.mark.parametrize(
    ("broken", "chosen"),
    [((), "triton"), ((triton,), "cuda"), ((triton, stock), "portable")],
    ids=["all", "one", "two"],
)
def test_cuda_tensors_go_to_triton_then_the_stock_kernel_then_plain_pytorch(
    broken, chosen, fresh, monkeypatch, caplog
):
    for module in (triton, stock):
        reason = "out of order" if module in broken else None
        monkeypatch.setattr(module, "unavailable_reason", lambda device, dtype, reason=reason: reason)
    for _ in range(2):
        assert dispatch.choose_backend(None, torch.device("cuda"), torch.bfloat16) == chosen
    reported = [record.getMessage() for record in caplog.records if "out of order" in record.getMessage()]
    assert len(reported) == len(broken), "each refusal is reported once"


@pytest.mark.parametrize(("name", "words"), [("triton", "NVIDIA GPU"), ("cuda", "NVIDIA GPU")])
def test_a_backend_asked_for_by_name_says_why_it_cannot(name, words):
    if triton.interpreted():
        pytest.skip("under Triton's interpreter the CPU is served, too")
    with pytest.raises(dispatch.BackendUnavailableError, match=words):
        dispatch.choose_backend(name, torch.device("cpu"), torch.float32)


def test_the_model_compiles_without_a_graph_break_when_the_choice_is_automatic(fresh):
    torch.manual_seed(0)
    model = VideoMambaPro(img_size=32, num_frames=2, num_classes=5, embed_dim=32, depth=1, drop_path_rate=0.0)
    clips = torch.randn(1, 3, 2, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(clips), model(clips), rtol=1e-4, atol=1e-5)
    compiled(clips).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
