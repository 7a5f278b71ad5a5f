"""Students of stored outputs: losses against explicit ones, files that cannot be used, and a run from end to end."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_standins import MemoryVideos, make_args, training_loader
from inference_files import write_moving_video

import run_class_finetuning
from datasets.annotations import VideoRecord
from datasets.teacher_outputs import StoredTeacherSettings, read_teacher_outputs
from engines.configuration import parse_arguments
from engines.distributed import Context
from engines.logs import RunLog
from engines.loss_settings import LossSettings
from engines.objectives.distillation import Distillation
from engines.objectives.stored_teacher import StoredTeacher
from engines.parallel import saved_weights
from engines.run import run_task
from engines.state import create_training_state
from engines.train import train_one_epoch
from models.videomambapro import VideoMambaPro

ROOT = Path(__file__).parent.parent
RECORDS = [VideoRecord(f"data/{i}.mp4", i % 3, 2 * i + 1) for i in range(4)]
LINES = np.array([record.line for record in RECORDS])


def outputs(seed=0, views=2, classes=3, width=6):
    """Logits and features of the records, all different."""
    rng = np.random.default_rng(seed)
    shapes = {"logits": (len(RECORDS), views, classes), "features": (len(RECORDS), views, width)}
    return {name: 2 * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def read(tmp_path, arrays, *losses, root="", **settings):
    np.savez(tmp_path / "teacher.npz", **arrays)
    settings = StoredTeacherSettings(str(tmp_path / "teacher.npz"), tuple(losses) or None, **settings)
    return read_teacher_outputs(settings, RECORDS, 3, list_file="train.csv", data_root=root)


def student(seed=0):
    torch.manual_seed(seed)
    sizes = dict(img_size=8, patch_size=4, num_frames=2, embed_dim=16, depth=2, num_classes=3)
    return VideoMambaPro(**sizes, drop_path_rate=0.0)


def taught(tmp_path, *losses, mixing=None, temperature=1.0, **weights):
    found = read(tmp_path, {"lines": LINES, **outputs()}, *losses)
    return Distillation(student(), 3, mixing, teacher=StoredTeacher(16, found, temperature), **weights)


def explicit(name, model, proj, clip, row, temperature):
    """The loss of one clip, averaged over the teacher's views one by one."""
    features = model.forward_features(clip[None])[0]
    logits = model.head(features)
    if name == "hard":
        shares = torch.stack([torch.from_numpy(view).softmax(-1) for view in outputs()["logits"][row]])
        return F.cross_entropy(logits[None], shares.mean(0).argmax()[None])
    terms = []
    for view in torch.from_numpy(outputs()["features" if name == "feature" else "logits"][row]):
        if name == "feature":
            terms.append(2 - 2 * F.cosine_similarity(proj(features), view, dim=0))
        else:
            wanted, own = (view / temperature).softmax(-1), (logits / temperature).log_softmax(-1)
            terms.append(temperature**2 * (wanted * (wanted.log() - own)).sum())
    return torch.stack(terms).mean()


def gradients(module, prefix=""):
    return {prefix + name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("name", "temperature"), [("soft", 1.0), ("soft", 3.0), ("hard", 1.0), ("feature", 1.0)])
def test_gradients_are_those_of_the_losses_of_single_views(tmp_path, name, temperature, mixed):
    np.random.seed(0)
    mixing = LossSettings(mixup=0.8, cutmix=1.0, smoothing=0.0) if mixed else None
    objective = taught(tmp_path, name, mixing=mixing, temperature=temperature, weight=0.7, label_weight=0.2)
    rows = torch.tensor([2, 0, 3, 1])
    batch = {"clips": torch.randn(4, 3, 2, 8, 8), "targets": torch.tensor([0, 1, 2, 0]), "indices": rows}
    prepared = objective.prepare(batch, torch.device("cpu"))
    objective(prepared)["loss"].backward()
    got = gradients(objective.model) | gradients(objective.distillation, "distillation.")

    plain, proj = student(), copy.deepcopy(getattr(objective.distillation, "proj", None))
    if proj is not None:
        proj.zero_grad()
    # the clips' labels 0 1 2 0 tell the share of the first and third; a batch has one
    share = prepared["targets"][1, 1] if mixed else torch.tensor(1.0)
    total = torch.tensor(0.0)
    for place, clip in enumerate(prepared["clips"]):
        for part, source in ((share, place), (1 - share, 3 - place)):
            cross_entropy = F.cross_entropy(plain(clip[None]), batch["targets"][source][None])
            loss = 0.2 * cross_entropy + 0.7 * explicit(name, plain, proj, clip, rows[source], temperature)
            total = total + part * loss / 4
    total.backward()
    expected = gradients(plain) | (gradients(proj, "distillation.proj.") if proj is not None else {})
    assert (0.01 < share < 0.99) == mixed and got.keys() == expected.keys()
    for parameter in expected:
        torch.testing.assert_close(got[parameter], expected[parameter], atol=1e-5, rtol=1e-3, msg=parameter)


def test_probabilities_are_logits_up_to_a_constant(tmp_path):
    logits = outputs()["logits"]
    shares = torch.from_numpy(logits).softmax(-1).numpy()
    by_logits = StoredTeacher(16, read(tmp_path, {"lines": LINES, "logits": logits}), 2.0)
    by_scores = StoredTeacher(16, read(tmp_path, {"lines": LINES, "scores": shares}), 2.0)
    batch = {"indices": torch.arange(4)}
    wanted = [teacher.targets(batch, torch.device("cpu"))["soft"] for teacher in (by_logits, by_scores)]
    torch.testing.assert_close(*wanted, atol=1e-5, rtol=1e-4)


def test_rows_belong_to_their_lines_and_paths_whatever_their_order(tmp_path):
    logits, order = outputs()["logits"], [3, 1, 0, 2]
    for keys in (
        {"lines": LINES[order]},
        {"line": LINES[order], "label": np.array([RECORDS[i].target for i in order])},
        {"paths": np.array([RECORDS[i].path for i in order])},
        {"paths": np.array([f"{i}.mp4" for i in order])},
    ):
        found = read(tmp_path, keys | {"logits": logits[order]}, root="data")
        np.testing.assert_array_equal(found.logits, logits)
        assert found.losses == ("soft",) and found.features is None
    only = {"lines": LINES, "features": outputs()["features"][:, 0].astype(np.float16)}
    found = read(tmp_path, only)
    assert found.losses == ("feature",) and found.features.shape == (4, 1, 6) and found.logits is None


def without(name, count):
    return {"lines": LINES[:count], name: outputs()[name][:count]}


def broken(name, row, value=np.nan):
    array = outputs()[name].copy()
    array[row, 1, 0] = value
    return {"lines": LINES, name: array}


SHARES = np.full((4, 3), 1 / 3, np.float32)


@pytest.mark.parametrize(
    ("arrays", "losses", "message"),
    [
        (without("logits", 3), (), r"no row for 1 of 4 lines of train.csv: line 7 \(data/3.mp4\); compute"),
        (without("logits", 1), (), r"no row for 3 of 4 lines .*: line 3 \(data/1.mp4\), 5 \(data/2.mp4\), 7"),
        ({"lines": LINES, "logits": outputs(classes=4)["logits"]}, (), "its logits have 4 classes, the lists 3"),
        (broken("logits", 2), (), r"the logits of 1 videos are not finite, the first of line 5 \(data/2.mp4\)"),
        (broken("features", 1, np.inf), (), r"the features of 1 videos are not finite, the first of line 3"),
        ({"lines": LINES, "scores": SHARES * 3}, (), "the scores of line 1 .* are not probabilities; if they are log"),
        ({"lines": LINES, "logits": SHARES}, (), "its logits are probabilities .* name the array scores"),
        ({"lines": LINES, "logits": SHARES, "scores": SHARES}, (), "has both logits and scores: keep one"),
        ({"lines": LINES, "logits": np.zeros((4, 3), int)}, (), "should be floating-point .*not int64"),
        ({"lines": LINES, "logits": np.zeros((4, 1, 1, 3))}, (), r"not float64 \(4, 1, 1, 3\)"),
        ({"lines": LINES, "logits": SHARES[:3] * 2}, (), "logits has only 3 rows"),
        ({"lines": LINES[[0, 0, 1, 2, 3]], "logits": np.eye(5, 3)}, (), "two rows for line 1"),
        ({"logits": SHARES}, (), "neither lines nor paths"),
        ({"lines": LINES, "features": outputs()["features"]}, ("hard",), "no logits or scores, only lines, features"),
        ({"lines": LINES, "scores": SHARES}, ("soft", "feature"), "has no features, only lines, scores"),
        ({"lines": LINES, "labels": np.array([0, 1, 1, 0]), "scores": SHARES}, (), "line 5 has label 2, but 1 in"),
        ({"lines": LINES, "paths": np.array(list("abcd")), "scores": SHARES}, (), "belong to another list"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path, arrays, losses, message):
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path, arrays, *losses)
    assert "\n" not in str(refused.value)


def test_damaged_files_and_mixed_forms_are_refused(tmp_path):
    file = tmp_path / "teacher.npz"
    settings = StoredTeacherSettings(str(file))
    ragged = np.array([np.zeros((1, 3)), np.zeros((2, 3))], dtype=object)
    np.savez(file, lines=LINES, logits=ragged)
    for content, message in (
        (None, "different forms"),
        (file.read_bytes()[:100], "not an .npz file"),
        (b"\x93NUMPY", "not an .npz file"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_teacher_outputs(settings, RECORDS, 3, list_file="train.csv")
    file.unlink()
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_teacher_outputs(settings, RECORDS, 3, list_file="train.csv")


def test_a_missing_line_ends_the_command_before_torch_is_imported(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 0\nb.mp4 1\nc.mp4 1\n")
    (tmp_path / "val.csv").write_text("a.mp4 0\n")
    np.savez(tmp_path / "teacher.npz", lines=np.array([1, 3]), logits=np.eye(2))
    words = ["--data_path", str(tmp_path), "--teacher_scores", str(tmp_path / "teacher.npz")]
    code = f"import sys; from engines.early_check import check_command_line as check\ntry:\n check('run_class_finetuning.py', {words})\nfinally:\n print('torch' in sys.modules)"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "False\n"
    assert "no row for 1 of 3 lines" in done.stderr and "line 2 (b.mp4)" in done.stderr


def test_the_teacher_is_not_saved_and_its_rows_are_not_copied(tmp_path):
    objective = taught(tmp_path, "soft", "feature")
    assert saved_weights(objective).keys() - student().state_dict().keys() == {
        "distillation.proj.weight", "distillation.proj.bias",
    }  # fmt: skip
    assert copy.deepcopy(objective).distillation.rows is objective.distillation.rows


def test_every_loss_is_logged(tmp_path):
    rng = np.random.default_rng(0)
    videos = MemoryVideos(12)
    arrays = {"lines": np.arange(1, 13), "logits": rng.standard_normal((12, 3)), "features": rng.random((12, 4))}
    np.savez(tmp_path / "teacher.npz", **arrays)
    settings = StoredTeacherSettings(str(tmp_path / "teacher.npz"), ("soft", "hard", "feature"))
    found = read_teacher_outputs(settings, videos.records, 3, list_file="train.csv")
    objective = Distillation(student(), 3, teacher=StoredTeacher(16, found), weight=0.5, label_weight=0.25)
    args = make_args("--model_ema")
    state = create_training_state(objective, args, Context(), steps_per_epoch=3)
    metrics = train_one_epoch(state, training_loader(videos), args, Context(), RunLog()).metrics
    taught_part = metrics["soft"] + metrics["hard"] + metrics["feature"]
    assert metrics["loss"] == pytest.approx(0.25 * metrics["cross_entropy"] + 0.5 * taught_part, rel=1e-5)


def test_a_student_learns_from_the_scores_that_a_test_of_its_teacher_wrote(tmp_path):
    """The teacher's test on the training list writes them; without labels, the student still learns its classes."""
    for i in range(8):
        write_moving_video(tmp_path / f"{i}.mp4", 6, seed=i % 2, height=32, width=32)
    labels = [i % 2 for i in range(8)]
    (tmp_path / "train.csv").write_text("".join(f"{i}.mp4 {label}\n" for i, label in enumerate(labels)))
    (tmp_path / "val.csv").write_text("".join(f"{i}.mp4 {label}\n" for i, label in enumerate(labels)))
    words = ["--model", "videomambapro_nano", "--depth", "2", "--data_path", str(tmp_path)]
    words += ["--data_root", str(tmp_path)]
    words += ["--input_size", "32", "--num_frames", "2", "--num_workers", "0", "--device", "cpu", "--reader", "pyav"]
    words += ["--read_timeout", "0", "--batch_size", "4", "--test_num_segment", "1", "--test_num_crop", "1"]
    start(*words, "--eval", "--test_list", str(tmp_path / "train.csv"), "--output_dir", str(tmp_path / "teacher"))
    with np.load(tmp_path / "teacher" / "scores.npz") as file:
        arrays = dict(file)
    # an able teacher of the other order of classes
    arrays["scores"] = np.where(arrays["label"][:, None] == [[1, 0]], 0.99, 0.01)
    np.savez(tmp_path / "teacher.npz", **arrays)
    train = [
        "--epochs",
        "25",
        "--warmup_epochs",
        "0",
        "--lr",
        "3e-3",
        "--lr_absolute",
        "--mixup",
        "0",
        "--cutmix",
        "0",
    ]
    train += ["--num_sample", "1", "--aa", "none", "--reprob", "0", "--drop_path", "0", "--dt_init", "mamba"]
    train += ["--scale", "1", "1", "--hflip", "0"]
    start(*words, *train, "--teacher_scores", str(tmp_path / "teacher.npz"), "--label_weight", "0",
          "--output_dir", str(tmp_path / "run"))  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    last = json.loads((tmp_path / "run" / "log.txt").read_text().splitlines()[-1])
    assert results["objective"] == "Distillation"
    assert last["val_acc1"] == 0, "it learnt the teacher's order of classes, not the list's"


def start(*words):
    args = parse_arguments(run_class_finetuning.get_parser(), [*words], script=run_class_finetuning.SCRIPT)
    run_task(run_class_finetuning.TASK, args, lambda *_: None)
