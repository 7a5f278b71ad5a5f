"""Probes: the grid against probes trained one by one, the choice, and runs that learn and that cannot."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_standins import make_args, run_processes, train
from video_files import write_video

import run_class_finetuning
from common.files import write_json
from datasets.held_out import held_out_rows
from engines.checkpoint import read_checkpoint
from engines.configuration import parse_arguments
from engines.distributed import Context, close_distributed
from engines.objectives.probe import Probe
from engines.probe_settings import settle_probe
from engines.state import create_training_state
from inference import load_predictor
from models.attentive_pooler import AttentivePooler
from models.describe import describe_checkpoint
from models.videomambapro import VideoMambaPro

GRID = [(1e-2, 0.1), (1e-3, 0.5)]
KINDS = {"linear": 0, "attentive": 2}


def build(kind, seed=0):
    torch.manual_seed(seed)
    sizes = dict(img_size=8, patch_size=4, num_frames=2, embed_dim=16, depth=2, num_classes=3, dt_init="mamba")
    return VideoMambaPro(**sizes, attentive_depth=KINDS[kind])


def batches(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"clips": torch.randn(6, 3, 2, 8, 8, generator=generator), "targets": torch.arange(6) % 3}
        for _ in range(count)
    ]


def trained(kind):
    """A grid after four steps, without warm-up, as the engine makes them, and the model as it was."""
    objective = Probe(build(kind), 3, grid=GRID)
    settings = make_args("--warmup_epochs", "0", "--epochs", "1")
    state = create_training_state(objective, settings, Context(), steps_per_epoch=4)
    objective.train()
    for batch in batches():
        state.optimizer.zero_grad()
        objective(objective.prepare(batch, torch.device("cpu")))["loss"].backward()
        state.optimizer.step()
        state.step += 1
        state.scheduler.step_update(state.step)
    return objective, build(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_each_probe_is_trained_as_if_it_were_alone(kind):
    objective, model = trained(kind)
    model.eval()
    for number, (lr, decay) in enumerate(GRID):
        torch.manual_seed(0)
        pooler, head = build(kind).pooler, build(kind).head
        norm = torch.nn.BatchNorm1d(16, affine=False, eps=1e-6, momentum=None)
        parameters = [*(pooler.parameters() if pooler else ()), *head.parameters()]
        decayed = [p for p in parameters if p.dim() > 1 and p.shape != (1, 1, 16)]
        others = [p for p in parameters if not any(p is one for one in decayed)]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}], lr=lr
        )
        for step, batch in enumerate(batches()):
            for group in optimizer.param_groups:
                end = 1e-6 * 4 / 256
                group["lr"] = end + 0.5 * (lr - end) * (1 + np.cos(np.pi * step / 4))
            with torch.no_grad():
                tokens = model.forward_tokens(batch["clips"])
            features = pooler(tokens) if pooler else norm(tokens[:, 0])
            optimizer.zero_grad()
            F.cross_entropy(head(features), batch["targets"]).backward()
            optimizer.step()
        torch.testing.assert_close(objective.probes[number]["head"].weight, head.weight, atol=1e-6, rtol=1e-4)
    first, second = (probe["head"].weight for probe in objective.probes)
    assert (first - second).abs().max() > 1e-3, "the grid must differ for this to show anything"


def test_a_step_that_is_not_finite_leaves_no_trace_in_the_statistics():
    objective, _ = trained("linear")
    kept = {name: value.clone() for name, value in objective.probe_norm.state_dict().items()}
    (batch,) = batches(1, seed=1)
    batch["clips"][2, :, 1] = torch.nan
    assert objective(objective.prepare(batch, torch.device("cpu")))["loss"].isnan(), (
        "or the engine would take the step"
    )
    for name, value in objective.probe_norm.state_dict().items():
        assert torch.equal(value, kept[name]), name
    (batch,) = batches(1, seed=1)
    objective(objective.prepare(batch, torch.device("cpu")))
    assert not torch.equal(objective.probe_norm.running_mean, kept["running_mean"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_probe_of_a_validation_becomes_the_head_of_an_unchanged_model(kind):
    objective, before = trained(kind)
    batch = batches(seed=1)[0]
    with torch.no_grad():
        all_of_them = objective.eval().outputs(batch, torch.device("cpu"), clips_per_forward=4)
    assert all_of_them.shape == (6, 2, 3)
    for best in (0, 1):
        labels = all_of_them[:, best].argmax(-1)
        labels[0] = (all_of_them[0, 1 - best].argmax() + 1) % 3  # the other one errs at least as often
        outputs = all_of_them.copy()
        outputs[:, 1 - best] = np.roll(outputs[:, best], 1, axis=-1)
        records = [type("Record", (), dict(target=int(label), line=1, path=""))() for label in labels]
        assert objective.figures(outputs, records)["acc1"] == objective.held_out[best, 0]
        assert int(objective.chosen) == best
        objective.after_validation(None)
        with torch.no_grad():
            views = objective.outputs({"clips": batch["clips"][:, None]}, torch.device("cpu"), clips_per_forward=4)
        np.testing.assert_allclose(views, all_of_them[:, best], atol=1e-4)
    for name, tensor in objective.model.state_dict().items():
        if not name.startswith(("head.", "pooler.")):
            assert torch.equal(tensor, before.state_dict()[name]), name


def test_the_pooler_reads_all_tokens_in_its_order_of_blocks():
    torch.manual_seed(0)
    pooler, tokens = AttentivePooler(32, 2).eval(), torch.randn(2, 5, 32)
    query, heads = pooler.query, 16
    mixed = pooler.blocks[0](tokens)
    q = query.q(query.latent).view(1, 1, heads, 2).transpose(1, 2)
    k, v = query.kv(mixed).view(2, 5, 2, heads, 2).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / 2**0.5).softmax(-1)
    read = query.proj((weights @ v).transpose(1, 2).reshape(2, 32))
    torch.testing.assert_close(pooler(tokens), read + query.mlp(query.norm(read)))


@pytest.mark.parametrize(("counts", "held"), [([50, 30, 20], [5, 3, 2]), ([1, 1, 12], [0, 0, 1]), ([2, 1], [1, 0])])
def test_a_tenth_is_held_out_by_class_and_no_class_is_lost(counts, held):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    for seed in range(5):
        rows = held_out_rows(labels, seed)
        found = np.bincount(labels[rows], minlength=len(counts))
        assert np.abs(found - held).max() <= 1 and found.sum() == max(1, len(labels) // 10)
        assert (np.bincount(np.delete(labels, rows), minlength=len(counts)) > 0).all()
    assert held_out_rows(labels, 1).tolist() == held_out_rows(labels, 1).tolist()
    if len(labels) > 20:
        assert held_out_rows(labels, 1).tolist() != held_out_rows(labels, 2).tolist()
    with pytest.raises(ValueError, match="none can be held out"):
        held_out_rows([0, 1, 2], 0)


CLASSES, TRAINING, TESTED = 4, 40, 40


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Clips of four colours with noise, lists with their labels and with shuffled ones, and random weights."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60]])
    labels = np.arange(TRAINING + TESTED) % CLASSES
    for i, label in enumerate(labels):
        frames = colours[label] + rng.normal(0, 40, (3, 1, 1, 3)) + rng.normal(0, 20, (3, 32, 32, 3))
        write_video(folder / f"{i}.mp4", np.clip(frames, 0, 255).astype(np.uint8))
    for name, some in (("labels", labels), ("shuffled", rng.permutation(labels))):
        (folder / name).mkdir()
        rows = [f"{i}.mp4 {label}\n" for i, label in enumerate(some)]
        (folder / name / "train.csv").write_text("".join(rows[:TRAINING]))
        rows = [f"{i}.mp4 {label}\n" for i, label in enumerate(labels)]
        (folder / name / "test.csv").write_text("".join(rows[TRAINING:]))
    torch.manual_seed(0)
    model = VideoMambaPro(img_size=32, num_frames=2, embed_dim=96, depth=2, num_classes=CLASSES, dt_init="mamba")
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    return folder


def words_for(data, name, *more):
    words = ["--model", "videomambapro_nano", "--depth", "2", "--finetune", str(data / "weights.pth")]
    words += ["--data_path", str(data / name), "--data_root", str(data), "--nb_classes", str(CLASSES)]
    words += ["--input_size", "32", "--num_frames", "2", "--test_num_segment", "1", "--test_num_crop", "2"]
    words += ["--num_workers", "0", "--device", "cpu", "--reader", "pyav", "--read_timeout", "0", "--batch_size", "12"]
    words += ["--probe_lrs", "1e-2", "1e-3", "--probe_weight_decays", "0.1", "0", "--warmup_epochs", "0"]
    return [*words, "--num_sample", "1", "--aa", "none", "--reprob", "0", *more]


def parse(*words):
    parser, script = run_class_finetuning.get_parser(), run_class_finetuning.SCRIPT
    return parse_arguments(parser, words, script=script, settle=settle_probe)


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_learns_and_its_checkpoint_is_a_classifier(data, tmp_path, kind):
    learnt = probed(data, "labels", kind, tmp_path / "labels")
    assert learnt["top1"] > 70, "chance is 25"
    assert (tmp_path / "labels" / "report.html").exists()
    saved = read_checkpoint(tmp_path / "labels" / "checkpoint-best.pth")
    source = torch.load(data / "weights.pth")["model"]
    assert all(torch.equal(saved["model"][name], source[name]) for name in source if not name.startswith("head."))

    predictor = load_predictor(tmp_path / "labels" / "checkpoint-best.pth", device="cpu")
    parameters = sum(parameter.numel() for parameter in predictor.model.parameters())
    assert describe_checkpoint(tmp_path / "labels" / "checkpoint-best.pth").parameters == parameters
    with np.load(tmp_path / "labels" / "scores.npz") as scores:
        predicted = predictor.predict(str(data / f"{TRAINING}.mp4")).probabilities
        np.testing.assert_allclose(predicted, scores["scores"][0], atol=1e-5)
    words = words_for(data, "labels", "--eval", "--resume", str(tmp_path / "labels" / "checkpoint-best.pth"))
    run_class_finetuning.main(parse(*words, "--output_dir", str(tmp_path / "again")))
    assert results_of(tmp_path / "again")["top1"] == learnt["top1"]


@pytest.mark.usefixtures("no_report")
def test_shuffled_labels_teach_nothing(data, tmp_path):
    assert probed(data, "shuffled", "linear", tmp_path)["top1"] < 50, "chance is 25"


def probed(data, name, kind, folder):
    words = words_for(data, name, "--probe", kind, "--epochs", "4", "--output_dir", str(folder))
    run_class_finetuning.main(parse(*words))
    results = results_of(folder)
    assert len(results["probe"]) == 4 and results["chosen_probe"] in results["probe"]
    assert results["chosen_probe"]["held_out_top1"] == max(row["held_out_top1"] for row in results["probe"])
    assert results["videos"] == TESTED and results["confusion_matrix"]
    return results


def test_training_and_held_out_videos_are_those_of_the_training_list(data):
    args = parse(*words_for(data, "labels", "--probe", "linear"))
    task, settings = run_class_finetuning.PROBE, run_class_finetuning.PROBE.read_settings(args)
    train, held_out, test = (task.build_dataset(mode, settings) for mode in ("train", "validation", "test"))
    lines = [{record.line for record in dataset.records} for dataset in (train, held_out)]
    assert lines[0] | lines[1] == set(range(1, TRAINING + 1)) and not lines[0] & lines[1]
    assert len(held_out) == TRAINING // 10 and len(test) == TESTED
    assert (train.plan.mode, held_out.plan.mode) == ("train", "validation")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--freeze", "2"], "--probe linear contradicts --freeze 2"),
        (["--parallel", "fsdp"], "--probe linear contradicts --parallel fsdp"),
        (["--cuda_graph"], "BatchNorm of --probe linear counts on the host"),
        (["--teacher_scores", "x.npz"], "--probe linear contradicts --teacher_scores x.npz"),
        (["--disable_eval_during_finetuning"], "leave out --disable_eval_during_finetuning"),
        (["--attentive_depth", "2"], "--attentive_depth belongs to --probe attentive"),
        (["--task", "multilabel"], "--probe linear contradicts --task multilabel"),
        (["--finetune", ""], "would freeze random weights; add --finetune FILE"),
    ],
)
def test_flags_that_contradict_a_probe_are_refused(data, words, message):
    with pytest.raises(ValueError, match=message):
        parse(*words_for(data, "labels", "--probe", "linear"), *words)


def test_an_odd_batch_is_no_fault_as_nothing_is_mixed(data):
    flags = parse(*words_for(data, "labels", "--probe", "linear", "--batch_size", "5"))
    assert (flags.batch_size, flags.mixup, flags.cutmix) == (5, 0.0, 0.0)


def test_the_saved_flags_of_a_probe_start_it_again(data, tmp_path):
    first = parse(*words_for(data, "labels", "--probe", "attentive"))
    write_json(tmp_path / "args.json", vars(first))
    again = parse("--config", str(tmp_path / "args.json"))
    assert (again.probe, again.freeze, again.attentive_depth) == ("attentive", "all", 1)


def train_probe(folder, until=None):
    torch.manual_seed(0)
    return train(folder, objective=Probe(build("linear"), 3, grid=GRID), noise=0.0, until=until)


def test_a_resumed_probe_ends_with_the_same_weights_and_choice(tmp_path):
    straight = train_probe(tmp_path / "straight").objective
    train_probe(tmp_path / "parts", until=1)
    resumed = train_probe(tmp_path / "parts").objective
    assert int(straight.chosen) >= 0 and straight.held_out.abs().sum() > 0
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def probe_in_parallel(rank, folder):
    state = train_probe(folder)
    torch.save(state.objective.state_dict(), folder / f"rank{rank}.pth")
    close_distributed()


def test_probes_are_trained_on_two_processes(tmp_path):
    run_processes(probe_in_parallel, 2, tmp_path)
    saved, model = read_checkpoint(tmp_path / "checkpoint-best.pth")["model"], build("linear")
    probe, norm = f"probes.{int(saved['chosen'])}.head", "probe_norm.running_"
    folded = saved[f"{probe}.weight"] / (saved[f"{norm}var"] + 1e-6).sqrt()
    torch.testing.assert_close(saved["head.weight"], folded)
    torch.testing.assert_close(saved["head.bias"], saved[f"{probe}.bias"] - folded @ saved[f"{norm}mean"])
    assert not torch.equal(saved["head.weight"], model.head.weight)
    first, second = (torch.load(tmp_path / f"rank{rank}.pth") for rank in (0, 1))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items()), "both ranks test the same head"
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items() if "head" not in name)
