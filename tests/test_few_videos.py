"""The benchmark of few videos: which lists and runs it makes, and the arithmetic of its table."""

import json
from collections import Counter

import pytest
from run_standins import replace_runs

from benchmarks import few_videos
from datasets.annotations import read_list


@pytest.fixture
def lists(tmp_path):
    """Lists of 9 classes with 12 training and 4 test videos each; labels are in the paths."""
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, count in (("train", 12), ("test", 4)):
        rows = [f"class{label}/{name}{i}.mp4 {label}\n" for label in range(9) for i in range(count)]
        (folder / f"{name}.csv").write_text("".join(rows))
    return folder


@pytest.fixture
def stand_in(monkeypatch):
    """Instead of training: a result that depends on the variant; runs are counted."""

    def results_of(command, folder):
        return {"top1": 20 if "shuffled" in str(folder) else 50 if "--finetune" in command else 70}

    references = json.dumps({"of": ["custom/small", ""], "scores": {"chance": 25, "both": 60, "linear probe": 61}})
    monkeypatch.setattr(few_videos, "write_references", lambda f, _: (f / "references.json").write_text(references))
    return replace_runs(monkeypatch, results_of)


def words_for(lists, *more):
    return ["--data_path", str(lists), "--classes", "4", "--sets", "2", "--output", str(lists / "out"),
            "--document", str(lists / "few.md"), "--per_class", "5", "--seeds", "0", "1", *more]  # fmt: skip


def test_sets_are_disjoint_and_lists_are_drawn_from_their_classes(lists, stand_in):
    assert few_videos.main(words_for(lists, "--epochs", "3")) == 0
    seen = []
    for number in range(2):
        folder = lists / "out" / f"set{number}_5_videos_seed0"
        train, test = (read_list(folder / f"{name}.csv")[0] for name in ("train", "test"))
        assert Counter(record.target for record in train) == dict.fromkeys(range(4), 5)
        assert Counter(record.target for record in test) == dict.fromkeys(range(4), 4)
        named = [{(record.path.split("/")[0], record.target) for record in some} for some in (train, test)]
        assert named[0] == named[1] and len(named[0]) == 4, "the same classes have the same labels in both lists"
        seen += [name for name, _ in named[0]]
        shuffled = read_list(folder / "shuffled" / "train.csv")[0]
        assert [r.path for r in shuffled] == [r.path for r in train]
        assert Counter(r.target for r in shuffled) == Counter(r.target for r in train)
        assert [r.target for r in shuffled] != [r.target for r in train]
        assert read_list(folder / "shuffled" / "test.csv")[0] == test
    assert len(set(seen)) == 8
    drawn = [(lists / "out" / f"set0_5_videos_seed{seed}" / "train.csv").read_text() for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    assert len(stand_in) == 2 * 2 * 3 and all(command[-3:-1] == ["--epochs", "3"] for command in stand_in)


def test_the_table_and_that_nothing_is_run_twice(lists, stand_in):
    few_videos.main(words_for(lists))
    few_videos.main(words_for(lists))
    assert len(stand_in) == 12
    text = (lists / "few.md").read_text()
    for row in (
        "| recipe | 70.0 +- 0.0 | 4 | 4 of 4 |",
        "| from random weights | 50.0 +- 0.0 | 4 | 0 of 4 |",
        "| shuffled labels | 20.0 +- 0.0 | 4 | 0 of 4 |",
        "| linear probe | 61.0 +- 0.0 | 4 | 4 of 4 |",
    ):
        assert row in text


def test_too_few_classes_are_refused(lists):
    with pytest.raises(SystemExit, match="3 disjoint sets of 4 classes need more than 9 classes"):
        few_videos.main(words_for(lists, "--sets", "3"))


def test_results_of_other_classes_or_of_another_recipe_are_not_taken_for_these(lists, stand_in):
    few_videos.main(words_for(lists))
    with pytest.raises(SystemExit, match="is of other --classes, --sets or data; choose another --output"):
        few_videos.main(words_for(lists, "--classes", "3"))
    assert len(stand_in) == 12


def test_references_are_of_a_recipe(lists):
    options, _ = few_videos.parse_arguments(words_for(lists))
    (lists / "references.json").write_text(json.dumps({"of": ["custom/hybrid", "a.pth"], "scores": {}}))
    with pytest.raises(SystemExit, match="another --recipe or --stem_weights"):
        few_videos.check_references(lists, options)


def test_a_recipe_without_features_to_compare_with_is_refused(lists, capsys):
    with pytest.raises(SystemExit):
        few_videos.parse_arguments(words_for(lists, "--recipe", "k400/tiny_f16_res224"))
    assert "has neither weights nor a stem" in capsys.readouterr().err
