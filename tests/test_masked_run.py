"""Runs of masked pretraining: what they write, resuming, several processes, and the checkpoint in fine-tuning."""

import json
import logging

import numpy as np
import pytest
import torch
from engine_standins import run_processes
from masked_run import CLIPS, SMALL, flags_for, pretrain, write_lists
from teacher_files import GOLDEN, bare_state

import run_class_finetuning
import run_pretrain_masked
from engines.checkpoint import read_checkpoint
from engines.configuration import parse_arguments
from engines.dry_run import dry_run
from engines.early_check import check_command_line
from engines.objectives.masked import MaskedAlignment
from engines.published_flags import Handling, RefusedFlagError, published_flags, translate
from models.arguments import ModelSettings
from models.build import build_model
from models.checkpoint import load_checkpoint
from models.describe import describe_checkpoint
from models.teachers import FamilyTeacher
from tools.flag_table import document

SCRIPT = run_pretrain_masked.SCRIPT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_lists(tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module")
def straight(folder):
    """The output folder of a run without labels that is probed."""
    return pretrain(folder, folder / "straight", "--probe_list", str(folder / "probe.csv"))


def log_of(output):
    return [json.loads(line) for line in (output / "log.txt").read_text().splitlines()]


def test_it_learns_from_bare_paths_and_logs_both_cosines_and_the_neighbours(straight):
    first, last = log_of(straight)
    assert last["train_loss"] < first["train_loss"]
    for line in (first, last):
        mean = (line["train_class_cosine"] + 4 * 2 * line["train_patch_cosine"]) / 9  # 2 of 4 patches in 4 frames
        assert line["train_loss"] == pytest.approx(2 - 2 * mean, rel=1e-4)
        assert 0 <= line["val_knn"] <= 100 and line["val_majority"] == 50
    results = json.loads((straight / "results.json").read_text())
    assert (results["objective"], results["videos"], results["views"]) == ("MaskedAlignment", CLIPS, 1)
    assert results["figures"]["knn"] == last["val_knn"], "the last epoch is tested, not the best"
    assert (straight / "report.html").is_file()


def test_labels_are_not_looked_at(folder, straight, tmp_path):
    labelled = pretrain(folder, tmp_path / "out", "--train_list", str(folder / "train.csv"))
    assert [line["train_loss"] for line in log_of(labelled)] == [line["train_loss"] for line in log_of(straight)]
    assert not (labelled / "results.json").exists(), "there is nothing to test without --probe_list"
    assert (labelled / "report.html").is_file()


@pytest.mark.usefixtures("no_report")
def test_bfloat16_reaches_the_teacher_and_changes_the_loss_little(folder, straight, tmp_path, monkeypatch):
    kinds, forward = [], FamilyTeacher.forward

    def watching(self, clips):
        hook = self.model.layers[0].mixer.in_proj.register_forward_hook(lambda _m, _i, out: kinds.append(out.dtype))
        targets = forward(self, clips)
        hook.remove()
        return targets

    monkeypatch.setattr(FamilyTeacher, "forward", watching)
    lines = log_of(pretrain(folder, tmp_path / "out", "--bf16", "--mask_type", "random"))
    assert set(kinds) == {torch.bfloat16}, "as the student, under autocast"
    assert lines[0]["train_loss"] == pytest.approx(log_of(straight)[0]["train_loss"], rel=0.05)


@pytest.mark.usefixtures("no_report")
def test_a_vision_transformer_teaches_by_its_attention(folder, tmp_path, caplog):
    torch.save(bare_state(), tmp_path / "clip.pth")
    words = ("--teacher", str(tmp_path / "clip.pth"), "--teacher_model", "vit_golden_clip_quickgelu_224")
    lines = log_of(pretrain(folder, tmp_path / "out", *words, "--mask_type", "attention"))
    assert lines[1]["train_class_cosine"] > lines[0]["train_class_cosine"]
    weights = read_checkpoint(tmp_path / "out" / "checkpoint-latest.pth")["model"]
    assert len(weights["alignment.head.weight"]) == GOLDEN["shapes"]["proj"][1], "CLIP's projection is the target"
    assert "4 optimizer steps in all" in caplog.text and "one class" not in caplog.text, "there are no classes"


@pytest.mark.usefixtures("no_report")
def test_the_probe_is_asked_every_few_epochs_and_after_the_last(folder, tmp_path):
    probe = ("--probe_list", str(folder / "probe.csv"), "--epochs", "5", "--eval_freq", "2")
    lines = log_of(pretrain(folder, tmp_path / "out", *probe, "--mask_ratio", "0.75", "--num_frames", "1"))
    assert ["val_knn" in line for line in lines] == [False, True, False, True, True]


@pytest.mark.usefixtures("no_report")
def test_a_stopped_run_goes_on_to_the_same_weights(folder, straight, tmp_path, monkeypatch):
    words = ("--probe_list", str(folder / "probe.csv"), "--save_every_steps", "1")
    forward, calls = MaskedAlignment.forward, []

    def stopping(self, batch):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(MaskedAlignment, "forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrain(folder, tmp_path / "out", *words)
    assert read_checkpoint(tmp_path / "out" / "checkpoint-latest.pth")["step"] == 3
    pretrain(folder, tmp_path / "out", *words)
    saved, again = (read_checkpoint(f / "checkpoint-latest.pth")["model"] for f in (straight, tmp_path / "out"))
    assert saved.keys() == again.keys() and "alignment.head.weight" in saved
    assert all(torch.equal(saved[name], again[name]) for name in saved)


@pytest.mark.usefixtures("no_report")
def test_the_checkpoint_goes_straight_into_fine_tuning(folder, straight, tmp_path, caplog):
    file = straight / "checkpoint-latest.pth"
    facts = describe_checkpoint(file)
    model = build_model(ModelSettings("videomambapro_nano", {"img_size": 32, "num_frames": 4, "depth": 2}), 2)
    report = load_checkpoint(model, file)
    assert report.names("initialised") == ["head.weight", "head.bias"]
    assert {name: note for name, (action, note) in report.rows.items() if action == "unused"} == dict.fromkeys(
        [f"alignment.{part}.{kind}" for part in ("head", "norm") for kind in ("weight", "bias")],
        "only for training",
    )
    assert facts.num_classes is None and facts.parameters == sum(
        parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("head.")
    )
    words = [*SMALL, "--finetune", str(file), "--train_list", str(folder / "train.csv"), "--val_list"]
    words += [str(folder / "probe.csv"), "--test_list", str(folder / "probe.csv"), "--data_root", str(folder)]
    words += ["--num_frames", "4", "--sampling_rate", "1", "--epochs", "1", "--batch_size", "4", "--device", "cpu"]
    words += ["--num_workers", "0", "--test_num_segment", "1", "--test_num_crop", "1", "--output_dir", str(tmp_path)]
    script = run_class_finetuning.SCRIPT
    run_class_finetuning.main(parse_arguments(run_class_finetuning.get_parser(), words, script=script))
    assert json.loads((tmp_path / "results.json").read_text())["classes"] == 2
    assert "would stay random" not in caplog.text and "did not train" not in caplog.text


@pytest.mark.usefixtures("no_report")
def test_any_checkpoint_can_be_probed(folder, straight, tmp_path):
    output = pretrain(
        folder, tmp_path, "--eval", "--finetune", str(straight / "checkpoint-latest.pth"), "--probe_list",
        str(folder / "probe.csv"), "--teacher", "",
    )  # fmt: skip
    found, known = (json.loads((f / "results.json").read_text())["figures"] for f in (output, straight))
    assert found == pytest.approx(known)


def _rank(rank, folder, parallel):
    run_pretrain_masked.try_to_report = lambda *_: None
    words = ("--probe_list", str(folder / "probe.csv"), "--batch_size", "2", "--parallel", parallel)
    pretrain(folder, folder / parallel, *words, "--drop_path", "0", "--model_ema")


@pytest.mark.slow
def test_two_processes_train_it_whole_and_sharded(folder):
    for parallel in ("ddp", "fsdp"):
        run_processes(_rank, 2, folder, parallel)
    plain, sharded = log_of(folder / "ddp"), log_of(folder / "fsdp")
    assert [line["processes"] for line in plain] == [2, 2]
    for name in ("train_loss", "train_class_cosine", "val_knn"):
        np.testing.assert_allclose([line[name] for line in sharded], [line[name] for line in plain], rtol=1e-3)
    weights = [read_checkpoint(folder / name / "checkpoint-latest.pth")["model"] for name in ("ddp", "fsdp")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_a_dry_run_checks_teacher_and_lists(folder, caplog):
    with caplog.at_level(logging.INFO):
        flags = flags_for(folder, "", "--probe_list", str(folder / "probe.csv"))
        assert dry_run(run_pretrain_masked.TASK, flags, measure=False) == 0
        assert dry_run(run_pretrain_masked.TASK, flags_for(folder, ""), measure=False) == 0
    assert caplog.text.count("dry run: no faults") == 2 and f"teacher: {folder / 'teacher.pth'}" in caplog.text
    (folder / "gone.csv").write_text("v0.mp4\nv99.mp4\n")
    assert dry_run(run_pretrain_masked.TASK, flags_for(folder, "", "--train_list", str(folder / "gone.csv"))) == 1
    assert "gone.csv, line 2" in caplog.text


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--train_list", "{0}/bare.csv"], "name its weights with --teacher FILE"),
        (
            ["--train_list", "{0}/bare.csv", "--teacher", "{0}/no.pth"],
            "no.pth: there is no such file; docs/masked.md says which files serve",
        ),
        (["--teacher", "{0}/teacher.pth"], "no train list: pass --data_path DIR with train.csv, or --train_list FILE"),
        (["--teacher", "{0}/teacher.pth", "--train_list", "{0}/no.csv"], "no.csv: there is no such file"),
        (["--teacher", "{0}/teacher.pth", "--probe_list", "{0}/no.csv"], "--probe_list {0}/no.csv: there is no such"),
        (["--val_list", "{0}/probe.csv"], "--val_list has no meaning here: masked pretraining is tested with"),
        (["--mask_ratio", "1"], "--mask_ratio: must be a number of 0 or more and below 1, not 1"),
        (["--mask_type", "rows"], "--mask_type: invalid choice: 'rows' (choose from "),
        (["--clip_loss_type", "mse"], "--clip_loss_type has no counterpart"),
    ],
)
def test_what_is_missing_is_told_in_one_line_before_torch_is_imported(folder, words, fragment, capsys):
    with pytest.raises(SystemExit) as ended:
        check_command_line(SCRIPT, [word.format(folder) for word in words], defaults="masked")
    assert ended.value.code == 2
    assert fragment.format(folder) in capsys.readouterr().err


def test_other_faults_name_their_flags(folder):
    with pytest.raises(ValueError, match="--eval tests the features on a labelled list"):
        flags_for(folder, "", "--eval")
    with pytest.raises(ValueError, match="--attentive_depth pools tokens for a head"):
        flags_for(folder, "", "--attentive_depth", "1")
    with pytest.raises(ValueError, match="--tubelet_size 2"):
        run_pretrain_masked.teacher_of(
            flags_for(folder, ""), build_model(ModelSettings("videomambapro_nano", {"tubelet_size": 2}), 0)
        )


# The flags of VideoMamba's script for K400 with its values, but paths, network and batch.
PUBLISHED = (
    "--num_sample 1 --split , --flip True --mask_type attention --mask_ratio 0.8 --clip_teacher clip_b16 "
    "--clip_loss_ratio 1 --clip_loss_type l2 --clip_decoder_embed_dim 576 --clip_output_dim 512 --clip_norm_type l2 "
    "--clip_return_layer 1 --clip_return_interval 1 --clip_student_return_interval 1 --clip_return_cls "
    "--clip_return_attn --tubelet_size 1 --lr 1.5e-4 --drop_path 0.4 --batch_size 64 --num_segments 8 --num_frames 8 "
    "--sampling_rate 1 --num_workers 12 --opt adamw --opt_betas 0.9 0.95 --warmup_epochs 40 --save_ckpt_freq 1000 "
    "--epochs 801 --bf16"
)
PARSER = (
    "batch_size epochs save_ckpt_freq model decoder_depth mask_type mask_ratio input_size drop_path normlize_target "
    "tubelet_size use_learnable_pos_emb clip_teacher clip_input_resolution clip_loss_ratio clip_loss_type "
    "clip_decoder_type clip_decoder_embed_dim clip_output_dim clip_norm_type clip_return_attn clip_return_layer "
    "clip_return_interval clip_student_return_interval clip_return_cls opt opt_eps opt_betas clip_grad momentum "
    "weight_decay weight_decay_end lr warmup_lr min_lr warmup_epochs warmup_steps use_checkpoint checkpoint_num "
    "num_sample color_jitter train_interpolation flip prefix split data_path imagenet_default_mean_and_std use_decord "
    "num_segments num_frames sampling_rate output_dir log_dir device seed resume auto_resume no_auto_resume "
    "start_epoch test_best num_workers pin_mem no_pin_mem no_amp bf16 world_size local_rank dist_on_itp dist_url"
)


def test_the_published_command_line_is_understood(folder):
    words = [*PUBLISHED.split(), "--data_path", str(folder / "bare.csv"), "--prefix", str(folder)]
    words += ["--teacher", str(folder / "teacher.pth"), "--model", "videomamba_middle_pretrain"]
    check_command_line(SCRIPT, words, defaults="masked")
    parser, settle = run_pretrain_masked.get_parser(), run_pretrain_masked.check_flags
    flags = parse_arguments(parser, words, script=SCRIPT, settle=settle)
    assert (flags.model, flags.teacher_model, flags.mask_ratio) == ("videomamba_middle", "clip_b16", 0.8)
    assert (flags.sampling, flags.crop, flags.hflip, flags.epochs) == ("uniform", "multi_scale", 0.5, 801)
    dataset = run_pretrain_masked.TASK.build_dataset("train", run_pretrain_masked.TASK.read_settings(flags))
    assert [record.path for record in dataset.records] == [f"{folder}/v{i}.mp4" for i in range(CLIPS)]
    assert dataset[0].clips.shape == (1, 3, 8, 224, 224)


def test_every_published_flag_is_known_and_refused_ones_name_the_alternative():
    table = published_flags(SCRIPT)
    assert set(PARSER.split()) <= {flag.option[2:] for flag in table.values()}
    native = run_pretrain_masked.get_parser()._option_string_actions
    for name in PARSER.split():
        flag = table[f"--{name}".replace("_", "-")]
        known = flag.option in native or flag.option.replace("--no_", "--no-") in native
        assert known == (flag.handling is Handling.SAME), flag.option
        assert flag.handling is Handling.SAME or flag.remark, flag.option
    with pytest.raises(RefusedFlagError, match="--hflip 0 switches mirroring off"):
        translate(["--flip", "False"], native, SCRIPT)
    assert "--clip_return_layer" in document()
    assert "clip-teacher" not in published_flags(), "fine-tuning has no such flag"
