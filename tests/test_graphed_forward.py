"""Forward passes as CUDA graphs: replays equal ordinary ones, follow the weights, and are refused with the reason."""

import pytest
import torch
from graph_standin import Tape

import run_inference
from engines.cuda_graph import GRAPHS, WARM_UP, GraphedForward
from inference import load_predictor
from models import VideoMambaPro


def model():
    torch.manual_seed(0)
    sizes = dict(img_size=32, num_frames=2, num_classes=5, embed_dim=32, depth=2)
    return VideoMambaPro(**sizes, drop_path_rate=0.0, backend="reference").eval()


def capture(step):
    """Record a step that changes nothing, as a CUDA graph does."""
    tape = Tape()
    with tape:
        result = step()
    capture.count += 1

    def replay():
        # A graph contains the casts, and its tensors have no mode.
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            tape.replay()
        return result

    return replay


@pytest.fixture
def pair():
    """A model, and a copy whose forward pass is captured."""
    plain, graphed = model(), model()
    graphed.forward_tokens = GraphedForward(graphed, torch.device("cpu"), capture)
    capture.count = 0
    return plain, graphed


def clips(seed, count=2):
    return torch.randn(count, 3, 2, 32, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_replays_equal_ordinary_passes_and_keep_earlier_results(pair):
    plain, graphed = pair
    batches = [clips(seed) for seed in range(WARM_UP + 3)]
    found = [graphed.forward_tokens(batch) for batch in batches]
    assert capture.count == 1
    assert all(torch.equal(a, plain.forward_tokens(b)) for a, b in zip(found, batches, strict=True))
    torch.testing.assert_close(graphed(batches[0]), plain(batches[0]))


def test_each_of_a_few_kinds_of_clips_has_its_graph(pair):
    plain, graphed = pair
    kinds = [dict(count=count, bf16=bf16) for count in (1, 2) for bf16 in (False, True)] + [dict(count=3, bf16=False)]
    for seed in range(WARM_UP + 2):
        for kind in kinds:
            given = clips(seed, kind["count"])
            mode = torch.inference_mode() if seed <= WARM_UP else torch.no_grad()
            with mode, torch.autocast("cpu", torch.bfloat16, enabled=kind["bf16"]):
                assert torch.equal(graphed.forward_tokens(given), plain.forward_tokens(given)), (seed, kind)
    assert capture.count == GRAPHS == len(kinds) - 1


@torch.no_grad()
def test_under_autocast_a_replay_follows_weights_that_change(pair):
    """Autocast's copies of the weights, made before the capture in the same block, must not get into the graph."""
    plain, graphed = pair
    with torch.autocast("cpu", torch.bfloat16):
        graphed._modules["layers"][0](torch.randn(1, 3, 32), None)  # fills autocast's cache
        for seed in range(WARM_UP + 1):
            graphed(clips(seed))
    assert capture.count == 1
    for network in pair:
        for weight in network.parameters():
            weight.mul_(1.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(graphed.forward_tokens(clips(9)), plain.forward_tokens(clips(9)))


def test_what_a_graph_cannot_do_is_computed_as_usual(pair):
    plain, graphed = pair
    with torch.no_grad():
        for seed in range(WARM_UP + 1):
            graphed(clips(seed))
        assert torch.equal(graphed(clips(5, count=3)), plain(clips(5, count=3)))
        seen = []
        handle = graphed.layers[0].register_forward_hook(lambda *_: seen.append(True))
        graphed(clips(6))
        handle.remove()
        assert seen == [True]
    graphed(clips(7)).sum().backward()
    plain(clips(7)).sum().backward()
    assert torch.equal(graphed.head.weight.grad, plain.head.weight.grad)
    assert torch.equal(graphed.layers[0].mixer.A_log.grad, plain.layers[0].mixer.A_log.grad)


def test_without_a_gpu_it_is_refused(checkpoint, capsys):
    words = "--cuda_graph: it needs an NVIDIA GPU"
    with pytest.raises(ValueError, match=words):
        load_predictor(checkpoint, device="cpu", cuda_graph=True)
    with pytest.raises(SystemExit) as stopped:
        run_inference.main(["video.mp4", "--checkpoint", str(checkpoint), "--device", "cpu", "--cuda_graph"])
    assert stopped.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]
