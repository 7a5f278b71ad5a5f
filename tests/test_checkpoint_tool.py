"""`python -m tools.checkpoint`, and evaluation of published weights without naming the model."""

import shlex

import pytest
import torch
from safetensors.torch import load_file, save_file

import run_class_finetuning
import run_pretrain_imagenet
from engines.configuration import parse_arguments
from models.checkpoint import CheckpointError, load_checkpoint
from models.describe import describe_checkpoint
from models.videomambapro import PLAIN_VIDEOMAMBA, VideoMambaPro
from tools.checkpoint import main
from tools.checkpoint_file import convert, inspect

NANO = dict(embed_dim=96, depth=6)


def build(**settings):
    torch.manual_seed(0)
    return VideoMambaPro(**(dict(img_size=32, num_frames=4, num_classes=7, **NANO) | settings))


def saved(folder, content, name="file.pth"):
    torch.save(content, folder / name)
    return folder / name


def image_weights():
    """Weights in the published form: a 2-D patch kernel and no temporal positions."""
    state = build(num_frames=1, num_classes=1000).state_dict()
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    del state["temporal_pos_embedding"]
    return state


def parsed(*words, module=run_class_finetuning):
    return parse_arguments(module.get_parser(), words, script=module.SCRIPT)


def evaluated(path, *words, module=run_class_finetuning):
    return parsed("--eval", "--finetune", str(path), *words, module=module)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"module": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": {f"backbone.{k}": v for k, v in state.items()}, "epoch": 3},
        lambda state: {"model": {f"encoder.{k}": v for k, v in state.items()}, "optimizer": {"state": {}}},
    ],
)
def test_every_published_form_is_described(tmp_path, wrap):
    facts = describe_checkpoint(saved(tmp_path, wrap(build(tubelet_size=2).state_dict())))
    assert (facts.model, facts.config["bimamba_type"], facts.num_classes) == ("videomambapro_nano", "v1", 7)
    assert [facts.config[name] for name in ("num_frames", "img_size", "tubelet_size")] == [4, 32, 2]
    assert facts.parameters == sum(p.numel() for p in build(tubelet_size=2).parameters())


def test_published_sizes_and_types_have_their_names(tmp_path):
    for size, numbers in {"small": dict(embed_dim=384, depth=24), "middle": dict(embed_dim=576, depth=32)}.items():
        with torch.device("meta"):
            model = build(**numbers, **PLAIN_VIDEOMAMBA)
        # Only the names and shapes matter; one stored zero stands for all values.
        state = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in model.state_dict().items()}
        facts = describe_checkpoint(saved(tmp_path, {"model": state}))
        assert (facts.model, facts.config["bimamba_type"]) == (f"videomamba_{size}", "v2")


def test_inspect_tells_an_image_model_and_how_to_test_it(tmp_path, capsys):
    path = saved(tmp_path, {"model": image_weights()})
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    for fragment in ("videomambapro_nano", "v1", "images", "1000", "32", "num_frames          not recorded"):
        assert fragment in text
    assert f"bash scripts/evaluate.sh --checkpoint {path} --data_set imagenet --data_root DIR" in text


def test_inspect_quotes_the_name_of_the_file_in_commands(tmp_path):
    path = saved(tmp_path, {"model": image_weights()}, "two words.pth")
    command = shlex.split(inspect(path).splitlines()[-1].partition("to test it")[2])
    assert command[command.index("--checkpoint") + 1] == str(path)


def test_inspect_prints_the_command_that_tests_the_very_run(tmp_path):
    flags = {"data_set": "custom", "data_path": "my lists", "data_root": "/videos", "sampling": "sparse",
             "test_num_segment": 2, "test_num_crop": 1, "num_frames": 4, "input_size": 32, "short_side_size": None,
             "label_names": "labels.txt", "sampling_rate": 4, "first_frame": None}  # fmt: skip
    path = saved(tmp_path, {"model": build().state_dict(), "args": flags})
    command = shlex.split(inspect(path).splitlines()[-1].partition("to test it")[2])
    assert command[:3] == ["python", "run_class_finetuning.py", "--eval"]
    args = parsed(*command[2:])
    names = ("data_set", "data_path", "data_root", "sampling", "test_num_segment", "test_num_crop", "num_frames")
    assert {name: getattr(args, name) for name in names} == {name: flags[name] for name in names}
    assert (args.finetune, args.nb_classes, args.input_size) == (str(path), 7, 32)


def test_inspect_tells_a_video_model_without_head_and_what_else_there_is(tmp_path):
    state = build(num_classes=400).state_dict()
    content = {"model": state, "model_ema": state, "optimizer": {"state": {}}, "epoch": 9, "best_score": 41.5}
    text = inspect(saved(tmp_path, content))
    assert "optimizer, EMA, epoch 9, best score 41.5" in text and "--data_set k400" in text
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    assert "it has no head; fine-tune it with --finetune" in inspect(saved(tmp_path, headless))


def test_converting_strips_and_keeps_the_weights(tmp_path):
    model, average = build().state_dict(), {k: v + 1 for k, v in build().state_dict().items()}
    flags = {"model": "videomambapro_nano", "elemental_residual": False}
    content = {"model": {f"module.{k}": v for k, v in model.items()}, "model_ema": average, "test_weights": "model",
               "optimizer": {"state": {}}, "args": flags}  # fmt: skip
    source = saved(tmp_path, content)
    for suffix in (".safetensors", ".pth"):
        plain, averaged = tmp_path / f"plain{suffix}", tmp_path / f"averaged{suffix}"
        convert(source, plain)
        convert(source, averaged, ema=True)
        read = load_file if suffix == ".safetensors" else lambda file: torch.load(file, weights_only=True)["model"]
        for file, expected in ((plain, model), (averaged, average)):
            written = read(file)
            assert written.keys() == expected.keys()
            assert all(torch.equal(written[name], expected[name]) for name in expected)
            assert describe_checkpoint(file).flags == flags
            load_checkpoint(build(elemental_residual=False), file, require_head=True)
    assert set(torch.load(tmp_path / "plain.pth", weights_only=True)) == {"model", "model_config", "args"}


def test_converting_leaves_out_what_served_only_for_training(tmp_path):
    model, decoder = build().state_dict(), {"clip_decoder.0.head.weight": torch.zeros(2, 2)}
    trained_with = {"distillation.proj.weight": torch.zeros(2, 96), "probes.0.weight": torch.zeros(2, 96)}
    convert(saved(tmp_path, {"model": model | trained_with | decoder}), tmp_path / "student.safetensors")
    assert load_file(tmp_path / "student.safetensors").keys() == (model | decoder).keys()


def test_of_our_own_runs_the_weights_that_were_tested_are_taken(tmp_path):
    model = build().state_dict()
    content = {"model": model, "model_ema": {k: v + 1 for k, v in model.items()}, "test_weights": "model_ema"}
    fresh = build()
    load_checkpoint(fresh, saved(tmp_path, content))
    torch.testing.assert_close(fresh.head.weight.detach(), model["head.weight"] + 1)


def test_what_cannot_be_done_is_reported(tmp_path, capsys):
    path = saved(tmp_path, build().state_dict())
    assert main(["convert", str(path), str(tmp_path / "x.pth"), "--ema"]) == 1
    assert "contains no EMA" in capsys.readouterr().err
    assert main(["convert", str(path), str(tmp_path / "x.bin")]) == 1
    assert "the target must be .pth or .safetensors" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "absent.pth")]) == 1
    assert "absent.pth: there is no such file" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-best.pth").touch()
    assert main(["inspect", str(tmp_path / "run")]) == 1
    assert "run is the folder of a run; name one of its files: checkpoint-best.pth" in capsys.readouterr().err
    state = build().state_dict()
    del state["cls_token"]
    with pytest.raises(CheckpointError, match="not a checkpoint of VideoMamba.* cls_token is missing"):
        describe_checkpoint(saved(tmp_path, state))
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(
        CheckpointError, match="cut.safetensors cannot be read as a checkpoint: Error while deserializing"
    ):
        describe_checkpoint(tmp_path / "cut.safetensors")


def test_evaluation_needs_no_flag_that_the_file_answers(tmp_path, caplog):
    path = saved(tmp_path, {"model": build(tubelet_size=2, **PLAIN_VIDEOMAMBA | {"bimamba_type": "v1"}).state_dict()})
    with caplog.at_level("INFO"):
        args = evaluated(path)
    assert (args.model, args.num_frames, args.input_size) == ("videomambapro_nano", 4, 32)
    assert (args.tubelet_size, args.nb_classes, args.auto_resume) == (2, 7, False)
    assert (
        ": --model videomambapro_nano, --nb_classes 7, --input_size 32, --num_frames 4, --tubelet_size 2"
        in caplog.text
    )
    plain = parsed("--finetune", str(path))
    assert (plain.model, plain.num_frames) == ("videomambapro_tiny", 8), "training asks for what it wants"


def test_switches_that_no_tensor_tells_come_from_our_own_files(tmp_path):
    flags = {"model": "videomambapro_nano", "elemental_residual": False, "masked_backward": None, "scan_input": "raw"}
    source = saved(tmp_path, {"model": build().state_dict(), "args": flags})
    convert(source, tmp_path / "w.safetensors")
    for path in (source, tmp_path / "w.safetensors"):
        args = evaluated(path)
        assert (args.elemental_residual, args.masked_backward, args.scan_input) == (False, None, "raw")
    with pytest.raises(ValueError, match="--elemental_residual True, the file has False"):
        evaluated(source, "--elemental_residual")


def test_an_image_file_cannot_say_the_frames(tmp_path):
    path = saved(tmp_path, {"model": image_weights()})
    assert evaluated(path, module=run_pretrain_imagenet).num_frames == 1
    args = evaluated(path, "--num_frames", "16", "--tubelet_size", "2")
    assert (args.num_frames, args.tubelet_size, args.input_size) == (16, 2, 32)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_frames", "8"], "contradicts the flags: --num_frames 8, the file has 4"),
        (["--input_size", "64"], "--input_size 64, the file has 32"),
        (["--nb_classes", "9"], "--nb_classes 9, the file has 7"),
        (["--recipe", "k400/tiny_f8_res224"], "--nb_classes 400, the file has 7; .*--num_frames 8, the file has 4"),
    ],
)
def test_contradictions_are_errors(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        evaluated(saved(tmp_path, build().state_dict()), *words)


def test_kinetics_710_evaluates_as_kinetics_400(tmp_path):
    path = saved(tmp_path, build(num_classes=710).state_dict())
    assert evaluated(path, "--recipe", "k400").nb_classes == 400
    assert evaluated(path).nb_classes == 710


def test_an_image_safetensors_file_keeps_its_plain_form(tmp_path):
    save_file({k: v.contiguous() for k, v in image_weights().items()}, tmp_path / "w.safetensors")
    facts = describe_checkpoint(tmp_path / "w.safetensors")
    assert facts.is_image_model and not {"num_frames", "tubelet_size"} & facts.config.keys() and facts.flags == {}
