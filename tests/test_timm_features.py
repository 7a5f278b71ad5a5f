"""Features of an image model for the lines of a list: against the model run by hand, and as a student's teacher."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from video_files import numbered_frames, write_folder

from datasets.annotations import read_list
from datasets.teacher_outputs import StoredTeacherSettings, read_teacher_outputs
from tools.timm_features import main

MODEL, SIZE = "test_efficientnet", 160


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model of timm with random weights, and their file."""
    torch.manual_seed(0)
    model = timm.create_model(MODEL).eval()
    file = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.save(model.state_dict(), file)
    return model, file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A list of two images and a folder of 12 frames, all squares of the model's size."""
    folder = tmp_path_factory.mktemp("data")
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    for name, image in zip("ab", pixels, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    write_folder(folder / "c", numbered_frames(12, SIZE, SIZE))
    (folder / "train.csv").write_text("a.png 1 0\nb.png 1 1\nc 12 1\n")
    return folder


def run(data, file, output, *words, lines=None, model=MODEL):
    given = [model, lines or data / "train.csv", "--data_root", data, "--weights", file, "--output", output, *words]
    return main([*map(str, given), "--read_timeout", "0"])


def by_hand(model, files):
    """Features of images, averaged: normalise by hand, leave the classifier out."""
    frames = torch.stack([torch.from_numpy(np.array(Image.open(file).convert("RGB"))) for file in files])
    mean, std = (torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    inputs = ((frames / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        return model.forward_head(model.forward_features(inputs), pre_logits=True).mean(0).numpy()


def test_a_row_is_the_models_features_without_the_mean_of_all_rows(teacher, data, tmp_path):
    model, file = teacher
    assert run(data, file, tmp_path / "features.npz", "--num_frames", "4") == 0
    frames = sorted((data / "c").iterdir())
    expected = np.stack([by_hand(model, files) for files in ([data / "a.png"], [data / "b.png"], frames[1::3])])
    found = np.load(tmp_path / "features.npz")
    np.testing.assert_allclose(found["features"], expected - expected.mean(0), atol=1e-5)
    assert np.abs(found["features"]).max() > 1e-3
    assert found["lines"].tolist() == [1, 2, 3] and found["labels"].tolist() == [0, 1, 1]


def vit_file(folder):
    """The file of a small transformer of timm with random weights."""
    torch.save(timm.create_model("test_vit").state_dict(), folder / "vit.pth")
    return folder / "vit.pth"


def test_a_transformer_takes_another_size(data, tmp_path):
    given = ["test_vit", data / "train.csv", "--data_root", data, "--weights", vit_file(tmp_path), "--input_size", 96]
    assert main([*map(str, given), "--read_timeout", "0", "--output", str(tmp_path / "features.npz")]) == 0
    assert np.load(tmp_path / "features.npz")["features"].shape == (3, 64)


def test_a_student_reads_the_file(teacher, data, tmp_path):
    file = tmp_path / "features.npz"
    run(data, teacher[1], file)
    records = read_list(data / "train.csv", data_root=str(data))[0]
    outputs = read_teacher_outputs(
        StoredTeacherSettings(str(file)), records, 2, list_file="train.csv", data_root=str(data)
    )
    assert outputs.losses == ("feature",) and outputs.features.shape[:2] == (3, 1)


def test_an_unreadable_line_ends_the_command_and_writes_nothing(teacher, data, tmp_path, capsys):
    lines = tmp_path / "other.csv"
    lines.write_text("a.png 1 0\nabsent.png 1 1\n")
    with pytest.raises(SystemExit) as stop:
        run(data, teacher[1], tmp_path / "features.npz", lines=lines)
    assert stop.value.code == 1 and not (tmp_path / "features.npz").exists()
    assert "absent.png" in capsys.readouterr().err


def test_what_cannot_work_is_said_before_anything_is_read(teacher, data, tmp_path, capsys):
    for output, words, expected in (
        (tmp_path / "features.csv", [], "should end in .npz"),
        (tmp_path, [], "should end in .npz"),
        (tmp_path / "a.npz", ["--input_size", "1"], "cannot take frames of 1 x 1 pixels"),
    ):
        with pytest.raises(SystemExit):
            main(
                [
                    "test_vit",
                    str(data / "train.csv"),
                    "--data_root",
                    str(data),
                    "--weights",
                    str(vit_file(tmp_path)),
                    "--output",
                    str(output),
                    *words,
                ]
            )
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_mean_is_over_lines(teacher, data, tmp_path):
    lines = tmp_path / "twice.csv"
    lines.write_text("a.png 1 0\na.png 1 0\nb.png 1 1\n")
    run(data, teacher[1], tmp_path / "features.npz", lines=lines)
    np.testing.assert_allclose(np.load(tmp_path / "features.npz")["features"].sum(0), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet_of_nobody", "unknown model"),
        ("test_resnet", "belongs to another model than test_resnet"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(teacher, data, tmp_path, capsys, model, words):
    with pytest.raises(SystemExit):
        run(data, teacher[1], tmp_path / "features.npz", model=model)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in last.lower()


def test_without_a_network_the_remedy_is_named(data, tmp_path, capsys, monkeypatch):
    words = [str(data / "train.csv"), "--data_root", str(data), "--output", str(tmp_path / "features.npz")]

    def offline(*_, **options):
        assert options == {"pretrained": True}
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(SystemExit):
        main([MODEL, *words])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "give a file with --weights: cannot reach the hub" in last


def test_a_model_without_weights_is_told_and_one_of_a_hub_is_asked_for(data, tmp_path, capsys, monkeypatch):
    words = [str(data / "train.csv"), "--data_root", str(data), "--output", str(tmp_path / "features.npz")]
    with pytest.raises(SystemExit):
        main(["seresnet18", *words])
    assert "timm has no weights of seresnet18; give a file with --weights" in capsys.readouterr().err
    asked = []

    def offline(name, **_):
        asked.append(name)
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(SystemExit):
        main(["hf_hub:timm/resnet18.a1_in1k", *words])
    assert asked == ["hf_hub:timm/resnet18.a1_in1k"]
