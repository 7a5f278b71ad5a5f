"""Recipes against the published tables: effective learning rates, epochs and views as they were reported."""

import json
import textwrap

import pytest
from engine_standins import make_args

import run_action_detection
import run_class_finetuning
import run_pretrain_imagenet
import run_pretrain_masked
from datasets.presets import VIDEO_AA
from engines.batch import fit_batch_to_list, share_batch
from engines.configuration import parse_arguments
from engines.recipe import Recipe, RecipeError, load_recipe, recipe_names
from engines.settings import plain_flags

MODULES = (run_action_detection, run_class_finetuning, run_pretrain_imagenet, run_pretrain_masked)
PARSERS = {module.SCRIPT: module.get_parser for module in MODULES}
# recipe: (effective lr, epochs, warm-up, weight decay, drop path), as the published tables give them.
PUBLISHED = {
    "k400/tiny_f8_res224": (8e-4, 70, 5, 0.1, 0.1),
    "k400/tiny_f64_res224": (4e-4, 70, 5, 0.1, 0.1),
    "k400/tiny_f64_res384": (3.75e-6, 10, 2, 1e-8, 0.1),
    "k400/small_f16_res224": (8e-4, 50, 5, 0.05, 0.35),
    "k400/small_f64_res224": (2e-4, 50, 5, 0.05, 0.35),
    "k400/small_f64_res384": (5e-6, 6, 1, 1e-8, 0.35),
    "k400/middle_f8_res224": (8e-4, 50, 5, 0.05, 0.8),
    "k400/middle_f32_res224": (1e-4, 50, 5, 0.05, 0.8),
    "k400/middle_f64_res224": (5e-5, 50, 5, 0.05, 0.8),
    "k400/middle_f64_res384": (1.25e-6, 6, 1, 1e-8, 0.8),
    "ssv2/tiny_f16_res224": (1.6e-3, 35, 5, 0.1, 0.1),
    "ssv2/tiny_f16_res288": (2e-5, 10, 2, 1e-8, 0.1),
    "ssv2/small_f16_res288": (7.5e-6, 10, 2, 1e-8, 0.35),
    "ssv2/middle_f16_res224": (8e-4, 30, 5, 0.05, 0.8),
    "ssv2/middle_f16_res288": (3.75e-6, 10, 2, 1e-8, 0.8),
    "ssv2/middle_masked_f16_res224": (2e-4, 30, 5, 0.05, 0.4),
    "imagenet/tiny_res224": (4e-3, 300, 5, 0.1, 0.0),
    "imagenet/tiny_res448": (2e-5, 30, 5, 1e-8, 0.0),
    "imagenet/tiny_res576": (1e-5, 10, 2, 1e-8, 0.0),
    "imagenet/small_res448": (5e-6, 30, 5, 1e-8, 0.15),
    "imagenet/middle_res224": (2e-3, 300, 20, 0.05, 0.5),
    "masked_k400/middle_f8_res224": (1.2e-3, 800, 40, 0.05, 0.4),
    "masked_ssv2/middle_f8_res224": (1.2e-3, 200, 40, 0.05, 0.4),
    # VideoMAE's for AVA
    "ava/small_f16_res224": (2.5e-4, 30, 5, 0.05, 0.2),
    "ava/middle_f16_res224": (2.5e-4, 30, 5, 0.05, 0.2),
}


def parsed(*words, script="run_class_finetuning.py"):
    return parse_arguments(PARSERS[script](), words, script=script)


def parsed_recipe(name, *words):
    return parsed("--recipe", name, *words, script=load_recipe(name).script)


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedules_are_the_published_ones(name):
    args = parsed_recipe(name)
    lr, *rest = PUBLISHED[name]
    clips = args.global_batch * getattr(args, "num_sample", 1)
    assert args.lr * clips / args.lr_base == pytest.approx(lr)
    assert [args.epochs, args.warmup_epochs, args.weight_decay, args.drop_path] == rest


@pytest.fixture
def list_of(tmp_path):
    """Write a training list of so many videos; returns the flag that names it."""

    def write(videos):
        (tmp_path / "train.csv").write_text("".join(f"{i}.mp4 {i % 3}\n" for i in range(videos)))
        return "--data_path", str(tmp_path)

    return write


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_keeps_its_batch_on_one_gpu(name, list_of):
    if name.endswith("/finetune"):
        with pytest.raises(RecipeError, match="give --finetune FILE"):
            parsed_recipe(name, *list_of(200))
        return
    args = parsed_recipe(name, *list_of(200))
    assert args.batch_size * args.update_freq == args.global_batch > 0
    if load_recipe(name).script != "run_action_detection.py":
        assert args.short_side_size is None, "it follows --input_size"
    if not load_recipe(name).choices:
        assert f"res{args.input_size}" in name
        assert args.num_frames == 1 or f"_f{args.num_frames}_" in name
    init = load_recipe(name).init
    assert " " in init or not init or load_recipe(init), "initial weights must be a recipe's or a description"


def test_shared_settings_are_the_published_ones():
    args = parsed_recipe("k400/tiny_f16_res224")
    shared = dict(
        opt="adamw", opt_betas=[0.9, 0.999], num_sample=2, num_workers=12, test_best=True, layer_decay=0.75,
        layer_decay_scope="embeddings", mixup=0.8,
        cutmix=1.0, mixup_prob=1.0, mixup_switch_prob=0.5, mixup_mode="batch", smoothing=0.1, reprob=0.25, recount=1,
        remode="pixel", min_lr=1e-6, warmup_lr=1e-6, fc_drop_rate=0.0, clip_grad=None, model_ema=False, tubelet_size=1,
        train_interpolation="bicubic", aa="rand-m5-n2-mstd0.25-inc1", data_set="Kinetics_sparse",
        test_num_segment=4, test_num_crop=3, lr_base=256, scale_min_lr=True,
    )  # fmt: skip
    assert {name: getattr(args, name) for name in shared} == shared
    ssv2 = parsed_recipe("ssv2/small_f8_res224")
    assert (ssv2.test_num_segment, ssv2.test_num_crop, ssv2.aa) == (2, 3, None)
    image = parsed_recipe("imagenet/tiny_res224")
    assert (image.clip_grad, image.scale_min_lr, image.min_lr, image.num_sample, image.num_frames) == (
        5.0, False, 1e-5, 1, 1,
    )  # fmt: skip


def test_masked_pretraining_is_the_published_one_but_for_its_network():
    args = parsed_recipe("masked_k400/middle_f8_res224")
    shared = dict(
        opt_betas=[0.9, 0.95], min_lr=1e-5, warmup_lr=0, num_sample=1, layer_decay=1, clip_grad=None, aa="none",
        reprob=0, hflip=0.5, crop="multi_scale", sampling="uniform", num_frames=8, mask_ratio=0.8, eval_freq=20,
        mask_type="attention", teacher_norm="own", lr_base=256, scale_min_lr=True, global_batch=2048,
        model="videomambapro_middle",
    )  # fmt: skip
    assert {name: getattr(args, name) for name in shared} == shared
    assert args.min_lr * args.global_batch / args.lr_base == pytest.approx(8e-5)
    assert parsed(script="run_pretrain_masked.py").mask_ratio == 0.8, "the script without a recipe has its defaults"


def test_the_image_script_without_a_recipe_has_the_image_defaults():
    args = parsed(script="run_pretrain_imagenet.py")
    assert (args.num_frames, args.lr_base, args.epochs, args.layer_decay) == (1, 512, 300, 1.0)


def test_long_video_and_ablation_variants():
    assert parsed_recipe("coin/middle_f64_res224").test_num_segment == 10
    assert parsed_recipe("coin/middle_f64_res224").layer_decay == 0.8
    ablated = parsed_recipe("k400/middle_f32_res224_neither")
    assert (ablated.elemental_residual, ablated.masked_backward, ablated.num_frames) == (False, False, 32)
    assert load_recipe("k400/middle_f32_res224").reported == {"videomambapro": 84.0, "videomamba": 82.4}
    assert load_recipe("hmdb51/tiny_f16_res224").reported == {}, "another data set's figures must not be passed on"


def test_flags_override_and_are_told(caplog):
    with caplog.at_level("INFO"):
        args = parsed_recipe("k400/tiny_f16_res224", "--lr", "1e-4", "--epochs", "70")
    assert args.lr == 1e-4
    assert args.overridden == ["lr 0.0002 -> 0.0001"], "an equal value overrides nothing"
    assert "recipe k400/tiny_f16_res224; overridden: lr 0.0002 -> 0.0001" in caplog.text
    assert "fine-tunes weights (imagenet/tiny_res224)" in caplog.text


def test_choices_follow_the_length_of_the_list_and_the_weights(list_of, caplog):
    with caplog.at_level("INFO"):
        few, some, many = (parsed_recipe("custom/small", *list_of(videos)) for videos in (30, 120, 5000))
    assert few.steps < some.steps < many.steps
    assert [args.aa for args in (few, some, many)] == ["none", "none", "rand-m5-n2-mstd0.5-inc1"]
    assert all(args.mixup == args.cutmix == 0 for args in (few, some, many))
    assert "custom/small, 30 training videos, starting from" in caplog.text
    assert "a short run, since so few videos are soon known by heart" in caplog.text
    scratch = parsed_recipe("custom/small", *list_of(120), "--finetune", "")
    assert (scratch.finetune, scratch.dt_init) == ("", "mamba") and scratch.lr > some.lr
    assert "starting from random weights" in caplog.text
    given = parsed_recipe("custom/small", *list_of(30), "--steps", "7", "--aa", VIDEO_AA)
    assert (given.steps, given.aa) == (7, VIDEO_AA), "what is typed wins"
    with pytest.raises(FileNotFoundError, match="--data_path"):
        parsed_recipe("custom/small")
    assert parsed_recipe("custom/small", "--eval").finetune == "", "a test is of the run's own weights"


def test_the_rates_of_few_videos_are_the_typed_ones(list_of):
    for name, *words in (["custom/small"], ["custom/small", "--finetune", ""], ["jhmdb/nano_f8_res96"]):
        args = parsed_recipe(name, *list_of(100), *words)
        assert args.global_batch * args.num_sample == args.lr_base


def test_the_first_row_that_fits_is_chosen():
    rows = [dict(weights=True, videos=10, lr=1), dict(weights=True, lr=2, about="x"), dict(videos=10, lr=3)]
    recipe = Recipe("file/run", "file.yaml", "script", {}, init="those weights", choices=rows)
    assert recipe.choose(10, weights=True) == {"lr": 1}
    assert recipe.choose(11, weights=True) == {"lr": 2, "about": "x"}
    assert recipe.choose(10, weights=False) == {"lr": 3}
    with pytest.raises(RecipeError, match=r"file/run does not fit: give --finetune FILE \(those weights\)"):
        recipe.choose(11, weights=False)


def test_a_saved_args_json_is_taken_back(tmp_path):
    args = parsed_recipe(
        "ssv2/middle_f16_res224", "--lr", "3e-4", "--no-masked_backward", "--opt_betas", "0.9", "0.95"
    )
    file = tmp_path / "args.json"
    file.write_text(json.dumps(plain_flags(args) | {"dist_eval": True}))  # as version 0.1.0 saved it
    again = parsed("--config", str(file), "--seed", "3")
    expected = plain_flags(args) | {"config": str(file), "recipe": "", "overridden": ["seed 0 -> 3"], "seed": 3}
    assert plain_flags(again) == expected


@pytest.mark.parametrize(
    ("batch", "processes", "expected"),
    [((512, 64), 8, (64, 1)), ((512, 64), 1, (64, 8)), ((512, 64), 16, (32, 1)), ((512, 64), 2, (64, 4)),
     ((96, 6), 1, (6, 16)), ((128, 2), 64, (2, 1)), ((32, 1), 16, (1, 2)), ((4096, 512), 8, (512, 1))],
)  # fmt: skip
def test_the_batch_of_an_update_is_kept_for_any_number_of_gpus(batch, processes, expected):
    shared = share_batch(*batch, processes, even=False)
    assert (shared.batch_size, shared.update_freq) == expected
    assert shared.batch_size * shared.update_freq * processes == shared.total == batch[0]


def test_a_batch_that_cannot_be_met_comes_near_and_is_told(caplog, monkeypatch):
    shared = share_batch(512, 64, 3, even=False)
    assert shared.batch_size <= 64 and abs(shared.total - 512) <= 3 * shared.update_freq / 2
    assert share_batch(510, 64, 3, even=True).batch_size % 2 == 0
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    args = parsed_recipe("k400/tiny_f16_res224")
    assert args.batch_size * args.update_freq * 3 == shared.total
    assert f"the global batch of 512 videos becomes {shared.total}" in caplog.text


def test_a_given_batch_size_keeps_the_update_and_a_given_update_freq_is_left_alone(caplog):
    args = parsed_recipe("k400/tiny_f16_res224", "--batch_size", "4")
    assert (args.batch_size, args.update_freq) == (4, 128)
    args = parsed_recipe("k400/tiny_f16_res224", "--update_freq", "2")
    assert (args.batch_size, args.update_freq) == (64, 2)
    assert "512 videos becomes 128" in caplog.text


def test_a_short_list_lowers_the_batch(caplog):
    args = make_args("--update_freq", "4", "--cutmix", "0", global_batch=512, batch_size=64)
    args = fit_batch_to_list(args, videos=23, processes=2)
    assert (args.flags["batch_size"], args.flags["update_freq"]) == (10, 1), "the record says what is done"
    assert (args.batch_size, args.update_freq) == (10, 1), "11 a process, and mixup wants an even number"
    assert "has 23 videos, fewer than the 512 of one optimizer step: a step now uses 20" in caplog.text
    args = fit_batch_to_list(args, videos=100, processes=2)
    assert (args.batch_size, args.update_freq) == (10, 1)
    with pytest.raises(ValueError, match="has 3 videos for 2 process.*take fewer processes, --num_sample 2"):
        fit_batch_to_list(args, videos=3, processes=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "k500/x"], "no recipe 'k500/x': no file .*k500.yaml; available: .*k400"),
        (["--recipe", "k400/tiny_f17_res224"], "k400.yaml has no run 'tiny_f17_res224'; the closest are: tiny_f16"),
        (["--recipe", "imagenet/tiny_res224"], "is for run_pretrain_imagenet.py, not for run_class_finetuning.py"),
        (["--recipe", "k400", "--config", "x"], "use one of them"),
        (["--config", "absent.yaml"], "absent.yaml does not exist"),
    ],
)
def test_a_wrong_choice_names_what_there_is(words, message):
    with pytest.raises(RecipeError, match=message):
        parsed(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: {lrr: 1}\nruns: {a: {}}", "bad.yaml: lrr is not a flag; did you mean lr"),
        ("base: {lr: fast}\nruns: {a: {}}", "bad.yaml: lr: 'fast' is not a value"),
        ("base: {epochs: }\nruns: {a: {}}", "bad.yaml: epochs: None"),
        ("base: {model_ema: 3}\nruns: {a: {}}", "model_ema: 3 is not a value .*true or false"),
        ("base: {sampling: often}\nruns: {a: {}}", "sampling: 'often'.*one of dense"),
        ("base: {lr: 1, lr: 2}\nruns: {a: {}}", "(?s)bad.yaml cannot be read: duplicate key 'lr'.*line 2"),
        ("basis: {}\nruns: {a: {}}", "bad.yaml: unknown basis"),
        ("runs: {a: {use: b}}", "a uses 'b', which is neither a group nor a run"),
        ("runs: {a: {use: b}, b: {use: a}}", "uses itself: a -> b -> a"),
        ("runs: {a: {batch: 64*8}}", 'batch of bad/a must look like 64x8 .*not "64\\*8"'),
        ("inherits: bad\nruns: {a: {}}", "inherits itself: bad -> bad"),
    ],
)
def test_faulty_files_are_named(tmp_path, monkeypatch, text, message):
    (tmp_path / "bad.yaml").write_text("script: run_class_finetuning.py\n" + text)
    monkeypatch.setattr("engines.recipe.RECIPES", tmp_path)
    monkeypatch.setattr("engines.configuration.load_recipe", lambda name: load_recipe(name, tmp_path))
    with pytest.raises(RecipeError, match=message):
        parsed("--recipe", "bad/a")


def test_mixing_an_odd_number_of_clips_is_refused_before_the_run():
    with pytest.raises(ValueError, match="--batch_size 3 with --num_sample 1: mixup pairs the clips"):
        parsed("--batch_size", "3", "--num_sample", "1")
    assert parsed("--batch_size", "3", "--num_sample", "1", "--mixup", "0", "--cutmix", "0").batch_size == 3
    assert parsed("--batch_size", "3").num_sample == 2


def test_inheritance_and_use(tmp_path):
    (tmp_path / "one.yaml").write_text(
        textwrap.dedent("""
        script: s.py
        base: {lr: 1, epochs: 2}
        groups: {g: {drop: 3, epochs: 4}}
        runs: {a_f4_res32: {use: g, init: b, batch: 2x3x4, reported: {m: 1}}, b: {use: a_f4_res32, drop: 5}}
    """)
    )
    (tmp_path / "two.yaml").write_text("inherits: one\nbase: {lr: 9}\ngroups: {g: {seed: 6}}\n")
    one = load_recipe("one/a_f4_res32", tmp_path)
    assert one.flags == dict(lr=1, epochs=4, drop=3, num_frames=4, input_size=32, batch_size=2, update_freq=4)
    assert (one.global_batch, one.init, one.reported) == (24, "one/b", {"m": 1})
    two = load_recipe("two/b", tmp_path)
    assert two.flags == dict(lr=9, epochs=4, drop=5, seed=6, batch_size=2, update_freq=4)
    assert (two.script, two.reported, two.init) == ("s.py", {}, "two/b")
    assert load_recipe("two", tmp_path).flags == dict(lr=9, epochs=2)
