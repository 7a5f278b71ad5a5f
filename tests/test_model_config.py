"""A field of the model configuration automatically becomes a flag and part of checkpoints and rebuilt models."""

from dataclasses import dataclass

import pytest
import timm
import torch
from inference_files import FLAGS, save_checkpoint

import run_action_detection
import run_class_finetuning
import run_inference
import run_pretrain_imagenet
from common.settings import from_flags
from engines.checkpoint import load_weights, resume_training
from engines.checkpoint import save_checkpoint as save_state
from engines.configuration import parse_arguments
from engines.distributed import Context
from engines.objectives.classification import Classification
from engines.settings import RunSettings
from engines.state import create_training_state
from inference import load_predictor
from models.arguments import ModelSettings, WeightSettings
from models.build import build_model, load_finetune_checkpoint
from models.checkpoint import CheckpointError, load_checkpoint
from models.checkpoint_file import read_checkpoint_file
from models.config import Configurable, ModelConfig
from models.describe import describe_checkpoint
from models.videomambapro import VideoMambaPro
from tools import checkpoint_file as tool
from tools.export_file import _metadata

SMALL = dict(img_size=32, num_frames=2, num_classes=7, embed_dim=16, depth=1)


@dataclass(frozen=True, kw_only=True)
class Extended(ModelConfig):
    sharpness: float = 1.5
    gated: bool = False


def parsed(*words, module=run_class_finetuning):
    return parse_arguments(module.get_parser(), words, script=module.SCRIPT)


def written_by_a_run(folder, *words):
    """checkpoint-latest.pth of a run with these flags, before its first update."""
    args = parsed("--model", "videomambapro_nano", "--input_size", "32", "--num_frames", "2", "--device", "cpu",
                  "--output_dir", str(folder), *words)  # fmt: skip
    state = create_training_state(
        Classification(build_model(ModelSettings.from_flags(args), 7), 7),
        RunSettings.of(args),
        Context(),
        steps_per_epoch=4,
    )
    save_state(state, args.output_dir, Context())
    return folder / "checkpoint-latest.pth"


def test_a_new_field_is_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(Configurable, "config_class", Extended)
    path = written_by_a_run(tmp_path, "--sharpness", "2.5", "--gated")
    tool.convert(path, tmp_path / "w.safetensors")
    tool.convert(path, tmp_path / "w.pth")
    for file in (path, tmp_path / "w.safetensors", tmp_path / "w.pth"):
        saved = read_checkpoint_file(file)["model_config"]
        assert (saved["sharpness"], saved["gated"]) == (2.5, True)
        lines = tool.inspect(file).splitlines()
        assert ["sharpness", "2.5"] in map(str.split, lines) and ["gated", "True"] in map(str.split, lines)
        predictor = load_predictor(file, device="cpu")
        assert (predictor.model.config.sharpness, predictor.model.config.gated) == (2.5, True)
        assert _metadata(predictor)["model_config"]["sharpness"] == 2.5
        evaluated = parsed("--eval", "--resume", str(file))
        assert (evaluated.sharpness, evaluated.gated) == (2.5, True)
        with pytest.raises(ValueError, match="--sharpness 3.0, the file has 2.5"):
            parsed("--eval", "--resume", str(file), "--sharpness", "3")
    monkeypatch.setattr(Configurable, "config_class", ModelConfig)
    with pytest.raises(CheckpointError, match="has an unknown configuration: gated True, sharpness 2.5"):
        describe_checkpoint(path)


def test_flags_constructor_and_timm_make_the_same_configuration():
    words = ["--model", "videomamba_small", "--scan_input", "raw", "--drop_path", "0.3", "--depth", "2"]
    settings = dict(img_size=32, num_classes=5, tubelet_size=2, scan_input="raw", drop_path_rate=0.3, depth=2)
    args = parsed(*words, "--input_size", "32", "--tubelet_size", "2", "--no-masked_backward")
    with torch.device("meta"):
        by_flags = build_model(ModelSettings.from_flags(args), 5)
        by_timm = timm.create_model("videomamba_small", **settings)
        by_config = VideoMambaPro(by_timm.config)
        changed = VideoMambaPro(by_timm.config, elemental_residual=True)
    assert by_flags.config == by_timm.config == by_config.config
    assert by_flags.config.bimamba_type == "v2" and not by_flags.config.elemental_residual
    assert by_config.layers[0].mixer.scan_input == "raw" and by_config.layers[0].mixer.A_log.shape == (768, 16)
    assert changed.config == by_timm.config.replace(elemental_residual=True)
    assert changed.layers[0].mixer.elemental_residual
    with pytest.raises(TypeError, match="embed_dims"):
        VideoMambaPro(embed_dims=3)


@pytest.mark.parametrize(
    "settings",
    [dict(drop_path_rate=2), dict(drop_rate=float("nan")), dict(depth=0), dict(num_frames=3, tubelet_size=2),
     dict(bimamba_type="v3"), dict(masked_backward="no"), dict(checkpoint_num=-1), dict(depth=2.5)],
)  # fmt: skip
def test_nonsense_is_refused_by_name(settings, capsys):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=name):
        ModelConfig(**settings)
    flags = {setting.name: setting.flag for setting in ModelConfig.settings() if not setting.from_data}
    if name in flags and not isinstance(ModelConfig.__dataclass_fields__[name].default, bool):
        with pytest.raises(SystemExit):
            parsed(f"--{flags[name]}", str(value))
        assert f"argument --{flags[name]}: " in capsys.readouterr().err


def test_a_file_of_ones_own_size_is_rebuilt_from_what_it_says(tmp_path):
    settings = SMALL | dict(d_state=4, patch_size=8, masked_backward=False, scan_input="raw", rms_norm=False)
    model = VideoMambaPro(**settings)
    torch.save({"model": model.state_dict(), "model_config": model.config.values()}, tmp_path / "own.pth")
    rebuilt = load_predictor(tmp_path / "own.pth", device="cpu", sampling_rate=1).model
    same = {name for name, value in model.config.values().items() if rebuilt.config.values()[name] == value}
    assert same >= settings.keys()
    clips = torch.randn(2, 3, 2, 32, 32)
    assert torch.equal(rebuilt(clips), model.eval()(clips))


def test_a_file_does_not_choose_the_backend(tmp_path):
    model = VideoMambaPro(**SMALL, backend="portable")
    torch.save({"model": model.state_dict(), "model_config": model.config.values()}, tmp_path / "own.pth")
    assert load_predictor(tmp_path / "own.pth", device="cpu").model.config.backend is None


@pytest.mark.parametrize("flags", [["--no-masked_backward"], ["--no-elemental_residual"], ["--scan_input", "raw"]])
def test_switches_that_contradict_the_file_are_an_error(tmp_path, flags):
    """In evaluation, as a start and as a resumption alike, unless the switch is named."""
    path = written_by_a_run(tmp_path)
    name = flags[0].removeprefix("--no-").removeprefix("--")
    model = ["--model", "videomambapro_nano"]
    for words in (["--eval", "--resume"], ["--eval", "--finetune"], [*model, "--finetune"], [*model, "--resume"]):
        with pytest.raises(ValueError, match=rf"--{name} \S+, the file has \S+\. .*--override_checkpoint {name}"):
            parsed(*words, str(path), *flags)
        assert getattr(parsed(*words, str(path), *flags, "--override_checkpoint", name), name) in (False, "raw")
        assert getattr(parsed(*words, str(path)), name) in (None, True, "conv")
    override = {name: "raw" if name == "scan_input" else False}
    with pytest.raises(ValueError, match=f"--override_checkpoint {name}"):
        load_predictor(path, device="cpu", **override)
    predictor = load_predictor(path, device="cpu", override_checkpoint=[name], **override)
    assert getattr(predictor.model.config, name) == override[name]


def test_the_files_switches_are_taken_where_nobody_says_them(tmp_path):
    path = written_by_a_run(tmp_path, "--no-masked_backward", "--scan_input", "raw")
    for words in (["--eval", "--resume"], ["--eval", "--finetune"], ["--finetune"], ["--resume"]):
        args = parsed("--model", "videomambapro_nano", *words, str(path))
        assert (args.masked_backward, args.scan_input, args.elemental_residual) == (False, "raw", None)
    with pytest.raises(ValueError, match="--elemental_residual False by --model videomamba_tiny, the file has True"):
        parsed("--model", "videomamba_tiny", "--finetune", str(path))
    with pytest.raises(ValueError, match="--depth 24 by --model videomambapro_tiny, the file has 6"):
        parsed("--model", "videomambapro_tiny", "--eval", "--finetune", str(path))
    with pytest.raises(ValueError, match="--override_checkpoint mask: there are .*masked_backward"):
        parsed("--finetune", str(path), "--override_checkpoint", "mask")


def test_weights_are_not_loaded_into_a_model_of_other_switches(tmp_path):
    """The file that a run finds in its own folder is compared too, after the flags were settled."""
    path = written_by_a_run(tmp_path)
    args = parsed("--model", "videomambapro_nano", "--input_size", "32", "--num_frames", "2", "--device", "cpu",
                  "--output_dir", str(tmp_path), "--no-masked_backward")  # fmt: skip
    state = create_training_state(
        Classification(build_model(ModelSettings.from_flags(args), 7), 7),
        RunSettings.of(args),
        Context(),
        steps_per_epoch=4,
    )
    message = "--masked_backward False, the file has True"
    with pytest.raises(CheckpointError, match=message):
        resume_training(state, RunSettings.of(args), Context())
    for load, target in ((load_weights, state.objective), (load_checkpoint, state.model)):
        with pytest.raises(CheckpointError, match=message):
            load(target, path)
    args.override_checkpoint = ["masked_backward"]
    resume_training(state, RunSettings.of(args), Context())
    load_weights(state.objective, path, args.override_checkpoint)


def test_files_of_before_tell_their_switches_by_their_flags(tmp_path):
    path = save_checkpoint(tmp_path / "old.pth", masked_backward=False, elemental_residual=None, scan_input=None)
    reported = describe_checkpoint(path).config
    assert (reported["masked_backward"], reported["elemental_residual"], reported["scan_input"]) == (
        False,
        True,
        "conv",
    )
    with pytest.raises(ValueError, match="--masked_backward True, the file has False"):
        parsed("--eval", "--resume", str(path), "--masked_backward")


def test_other_frames_and_views_than_the_runs_are_told(tmp_path, caplog):
    path = save_checkpoint(tmp_path / "c.pth")
    words = ["--sampling_rate", "2", "--test_num_segment", "2", "--test_num_crop", "3"]
    parsed("--eval", "--finetune", str(path), *words)
    assert "than its run" not in caplog.text
    parsed("--eval", "--resume", str(path), *words[:4], "--sampling", "sparse")
    assert FLAGS["test_num_crop"] == 3 and "than its run: " in caplog.text
    parsed("--eval", "--resume", str(path), "--sampling_rate", "8", *words[2:4], "--test_num_crop", "1")
    assert "--sampling_rate 2 -> 8, --test_num_crop 3 -> 1" in caplog.text
    assert "--sampling dense -> sparse" in caplog.text


def test_a_resumed_evaluation_does_not_load_what_the_run_started_from(tmp_path):
    path = written_by_a_run(tmp_path)
    other = VideoMambaPro(**SMALL | dict(embed_dim=96, depth=6, num_classes=1000))
    torch.save(other.state_dict(), tmp_path / "start.pth")
    args = parsed("--finetune", str(tmp_path / "start.pth"), "--eval", "--resume", str(path))
    model = build_model(ModelSettings.from_flags(args), 7)
    assert load_finetune_checkpoint(model, from_flags(WeightSettings, args)) is None
    load_weights(Classification(model, 7), path)


def negatives(parser):
    return [option for option in parser._option_string_actions if option.startswith(("--no-", "--no_"))]


@pytest.mark.parametrize("module", [run_action_detection, run_class_finetuning, run_pretrain_imagenet, run_inference])
def test_negative_flags_are_accepted_in_both_spellings(module):
    parser = module.get_parser()
    needed = ["--checkpoint", "c", "v.mp4"] if module is run_inference else []
    assert negatives(parser)
    for option in negatives(parser):
        for spelling in (f"--no-{option[5:]}", f"--no_{option[5:]}"):
            args = parser.parse_args([*needed, spelling])
            assert getattr(args, option[5:]) is False
