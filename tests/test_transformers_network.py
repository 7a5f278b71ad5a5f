"""The network of the folder for transformers: the generated code computes and learns as the network itself."""

import pytest
import torch

from engines.objectives.tasks import create_objective
from mamba.mamba_ssm.ops.selective_scan.reference import scan_direction
from models import VideoMambaPro
from models.checkpoint_file import PROBLEM_TYPES

pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is not installed")
from generated_modules import SIZES, module_of  # noqa: E402

from tools.transformers_folder.folder import MODELING  # noqa: E402


@pytest.fixture(scope="module")
def generated():
    module = module_of(MODELING)
    module.fused_scan = module.fused_convolution = module.fused_add_norm = None  # as without this repository
    return module


VARIANTS = {
    "as published": {},
    "raw, layer norm": dict(scan_input="raw", dt_init="mamba", rms_norm=False, tubelet_size=2),
    "v2, neither": dict(bimamba_type="v2", d_state=5, elemental_residual=False, masked_backward=False),
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_the_generated_network_is_the_network(generated, settings):
    """Logits, hidden states and gradients; a change of the sources that the generated code does not follow fails."""
    torch.manual_seed(0)
    model = VideoMambaPro(**(SIZES | settings))
    config = generated.VideoMambaProConfig(model_config=model.config.values(), num_labels=5)
    other = generated.VideoMambaProForVideoClassification(config)
    assert {"backbone." + name for name in model.state_dict()} == other.state_dict().keys()
    other.load_state_dict({"backbone." + name: tensor for name, tensor in model.state_dict().items()})
    clips, labels = torch.randn(2, 3, 4, 32, 48), torch.tensor([0, 3])
    logits = model(clips)
    output = other(clips.transpose(1, 2), labels=labels, output_hidden_states=True)
    torch.testing.assert_close(output.logits, logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        list(output.hidden_states), model.forward_intermediates(clips, output_fmt="NLC", intermediates_only=True)
    )
    loss = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(output.loss, loss)
    loss.backward()
    output.loss.backward()
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_network_from_its_configuration_alone_starts_as_ours(generated):
    values = {name: value for name, value in SIZES.items() if name != "backend"}
    torch.manual_seed(0)
    config = generated.VideoMambaProConfig(model_config=values, num_labels=3)
    model = generated.VideoMambaProForVideoClassification(config)
    assert model.config.model_config["num_classes"] == 3 and model.config.num_frames == 4
    torch.manual_seed(0)
    ours = VideoMambaPro(**(values | {"num_classes": 3}))
    for name, tensor in ours.state_dict().items():
        if not name.startswith("head."):  # drawn anew by transformers
            assert torch.equal(model.backbone.state_dict()[name], tensor), name
    assert 0.01 < model.backbone.head.weight.std() < 0.03
    model.activation_checkpointing_enable()
    assert model.backbone.checkpointed_blocks == 2
    model.activation_checkpointing_disable()
    assert model.backbone.checkpointed_blocks == 0


def test_several_views_are_averaged_as_probabilities(generated):
    torch.manual_seed(0)
    model = generated.VideoMambaProForVideoClassification(
        generated.VideoMambaProConfig(model_config=SIZES, num_labels=5)
    ).eval()
    views = torch.randn(2, 3, 4, 3, 32, 48)
    single = torch.stack([model(views[:, view]).logits.softmax(-1) for view in range(3)]).mean(0)
    torch.testing.assert_close(model(views).logits.softmax(-1), single)


def of_task(generated, task, **entries):
    torch.manual_seed(0)
    config = generated.VideoMambaProConfig(
        model_config=SIZES, num_labels=5, problem_type=PROBLEM_TYPES[task], **entries
    )
    return generated.VideoMambaProForVideoClassification(config).eval()


STATISTICS = {"target_mean": [3.0, 0, 0, 0, 500], "target_scale": [2.0, 1, 1, 1, 0.5]}


@pytest.mark.parametrize(
    ("task", "entries"),
    [("multilabel", {}), ("multilabel", {"args": {"view_merge": "max"}}), ("regression", {"objective": STATISTICS})],
)
def test_views_and_loss_are_those_of_our_objective(generated, task, entries):
    model = of_task(generated, task, **entries)
    merge = entries.get("args", {}).get("view_merge", "mean")
    ours = create_objective(task, lambda clips: model.backbone(clips), 5, view_merge=merge).eval()
    for name, values in entries.get("objective", {}).items():
        getattr(ours, name).copy_(torch.tensor(values))
    views = torch.randn(2, 3, 4, 3, 32, 48)
    labels = torch.tensor([[1, 0, 0, 1, 1], [0, 0, 0, 0, 499]]) if task == "regression" else torch.eye(5)[:2].long()
    with torch.no_grad():
        wanted = ours.merge_views(ours.predict(views.flatten(0, 1).transpose(1, 2)).unflatten(0, (2, 3)))
        got = model(views).logits
        loss = model(views[:, 0], labels=labels).loss
    got = got.sigmoid() if task == "multilabel" else got.double()
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    targets = [row.nonzero()[:, 0].tolist() for row in labels] if task == "multilabel" else labels.tolist()
    batch = ours.prepare({"clips": views[:, 0].transpose(1, 2), "targets": targets}, torch.device("cpu"))
    torch.testing.assert_close(loss, ours(batch)["loss"], rtol=1e-5, atol=1e-6)


def test_one_number_is_learnt_in_the_units_of_the_list(generated):
    config = generated.VideoMambaProConfig(
        model_config=SIZES,
        num_labels=1,
        problem_type="regression",
        objective=STATISTICS,  # of a head of five
    )
    model = generated.VideoMambaProForVideoClassification(config)
    clips = torch.randn(2, 4, 3, 32, 48)
    output = model.eval()(clips, labels=torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(output.logits, model.backbone(clips.transpose(1, 2)))
    torch.testing.assert_close(output.loss, ((output.logits[:, 0] - torch.tensor([2.0, 3.0])) ** 2).mean())


def test_the_stock_kernel_is_used_where_it_is(generated, monkeypatch):
    """A loop stands in for mamba-ssm's function, and the tensor says that it is on a GPU."""

    class OnGPU(torch.Tensor):
        is_cuda = True

    def scan(u, delta, A, B, C):
        y, _ = scan_direction(u.mT, delta.mT, A, B.permute(0, 3, 1, 2), C.permute(0, 3, 1, 2), False, False)
        return y.mT

    monkeypatch.setattr(generated, "stock_scan", lambda: scan)
    u, delta, B, C = (torch.randn(2, 6, width) for width in (8, 8, 4, 4))
    A, D = -torch.rand(8, 4), torch.rand(8)
    wanted = generated.bidirectional_scan(u, delta, A, A * 2, B, C, D)
    monkeypatch.setattr(generated.PortableScan, "apply", None)  # calling it would fail
    got = generated.bidirectional_scan(u.as_subclass(OnGPU), delta, A, A * 2, B, C, D)
    torch.testing.assert_close(got.as_subclass(torch.Tensor), wanted)
