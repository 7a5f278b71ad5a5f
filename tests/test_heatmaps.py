"""Heat maps: where the patches of crops lie in the pictures, between tubelets, over windows, and the pictures made."""

import av
import numpy as np
import pytest
import torch
from inference_files import moving_frames, write_moving_video
from PIL import Image

import run_inference
from explain.relevance import token_contributions
from inference.defaults import QUICK
from inference.heat_grid import draw_heat_grid
from inference.heatmaps import HeatTrack, explain_windows, join_windows, spread
from inference.predictor import load_predictor
from inference.sources import FramesInMemory
from inference.timeline import follow, read_windows


def centre_of(heat):
    """Row and column of the centre of mass, as shares of the picture."""
    rows, columns = (np.arange(side) + 0.5 for side in heat.shape)
    return rows @ heat.sum(1) / heat.sum() / heat.shape[0], columns @ heat.sum(0) / heat.sum() / heat.shape[1]


@pytest.mark.parametrize("crop", [0, 1, 2])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (3, 2)])
def test_a_patch_lies_where_the_test_cut_it(crop, row, column):
    """By hand: crops of a picture of 120 x 200 start at 0, 40 and 80 pixels, patches are 30 pixels wide."""
    maps = np.zeros((3, 4, 4))
    maps[crop, row, column] = 1
    for transposed in (False, True):
        heat = spread(maps.transpose(0, 2, 1) if transposed else maps, *((200, 120) if transposed else (120, 200)))
        heat = heat.T if transposed else heat
        middle = (int(30 * (row + 0.5)), int(40 * crop + 30 * (column + 0.5)))
        near = np.zeros_like(heat)
        near[max(0, middle[0] - 30) : middle[0] + 31, max(0, middle[1] - 30) : middle[1] + 31] = 1
        assert heat[middle] > 0.25 and (heat * near).sum() > 0.95 * heat.sum()


def test_overlapping_crops_are_averaged_and_what_no_crop_saw_is_cold():
    even = spread(np.ones((3, 4, 4)), 120, 200)
    np.testing.assert_allclose(even, 1, rtol=1e-5)
    one = spread(np.ones((1, 4, 4)), 120, 200)
    assert (one[:, :40] == 0).all() and (one[:, 160:] == 0).all() and np.allclose(one[:, 40:160], 1)
    image = spread(np.ones((1, 4, 4)), 100, 100, crop_share=0.8)
    assert image[:10].sum() == 0 and np.allclose(image[10:90, 10:90], 1)


def test_maps_between_tubelets_are_linear():
    maps = np.stack([np.zeros((1, 2, 2)), np.ones((1, 2, 2))])
    track = HeatTrack(np.array([2.0, 6.0]), np.array([2, 6]), maps)
    assert [float(track.at(frame).mean()) for frame in (0, 2, 3, 5, 6, 9)] == [0, 0, 0.25, 0.75, 1, 1]


def test_tubelets_of_one_time_are_averaged():
    first = HeatTrack(np.array([0.0, 4.0]), np.array([0, 4]), np.array([1.0, 2.0]).reshape(2, 1, 1, 1))
    second = HeatTrack(np.array([4.0, 8.0]), np.array([4, 8]), np.array([4.0, 8.0]).reshape(2, 1, 1, 1))
    joined = join_windows([second, first])
    assert joined.times.tolist() == [0, 4, 8] and joined.frames.tolist() == [0, 4, 8]
    assert joined.maps.ravel().tolist() == [1, 3, 8]


def test_windows_are_explained_for_their_own_class(predictor):
    reader = FramesInMemory(moving_frames(20))
    clips, frames = read_windows(predictor, reader, np.array([0, 7]), 8)
    track = explain_windows(predictor, clips, frames, [2, 5])
    assert track.maps.shape == (8, 3, 2, 2)
    assert track.times.tolist() == [0, 2, 4, 6, 7, 9, 11, 13]
    by_hand = token_contributions(predictor.model, clips[1], torch.tensor([5, 5, 5])).clamp(min=0)
    np.testing.assert_allclose(track.maps[4:].transpose(1, 0, 2, 3), by_hand.numpy(), atol=1e-5)
    assert track.maps.max() > 0


def test_the_overlay_is_warm_where_the_relevance_is():
    maps = np.zeros((1, 1, 4, 4), dtype=np.float32)
    maps[0, 0, 3, 0] = 1
    picture = np.full((80, 80, 3), 100, dtype=np.uint8)
    drawn = HeatTrack(np.array([0.0]), np.array([0]), maps).overlay(picture, 0).astype(int)
    change = np.abs(drawn - 100).sum(-1)
    row, column = centre_of(change.astype(float))
    assert row > 0.75 and column < 0.25 and change[:40, 40:].max() == 0


GREY = np.full((90, 160, 3), 100, dtype=np.uint8)


def track_of(*strengths):
    """One crop in the middle of GREY, its left half of each strength at one time after another."""
    maps = np.zeros((len(strengths), 1, 6, 6), dtype=np.float32)
    maps[..., :3] = np.array(strengths, dtype=np.float32).reshape(-1, 1, 1, 1)
    times = np.arange(float(len(strengths)))
    return HeatTrack(times, times.astype(int), maps, tubelets=4)


def heat_of(track, frame, certainty=1.0):
    """How much the overlay changes the pixels that lie well within the crop, columns 35 to 124, and its fade."""
    drawn = track.overlay(GREY, frame, certainty).astype(int)
    return np.abs(drawn - GREY)[:, 50:110].max()


def test_no_evidence_looks_like_nothing():
    assert heat_of(track_of(0, 0), 0) == 0
    assert heat_of(track_of(6e-7, 6e-7), 0) <= 1, "a sum of 6e-5 of a logit is rounding, even if there is nothing else"
    assert heat_of(track_of(0.3, 0), 0) > 60 and heat_of(track_of(0.3, 0), 1) == 0


def test_a_video_has_one_scale_and_doubt_is_paler():
    track = track_of(0.3, 0.1)
    strong, weak = heat_of(track, 0), heat_of(track, 1)
    assert 0 < weak < 0.6 * strong and track.scale == pytest.approx(0.3)
    shades = [heat_of(track, 0, certainty) for certainty in (0, 0.25, 0.5, 1)]
    assert shades[0] == 0 and shades == sorted(shades) and len(set(shades)) == 4


def test_the_crop_is_framed_and_heat_ends_softly_there():
    drawn = track_of(0.3).overlay(GREY, 0).astype(int)
    change = np.abs(drawn - GREY).sum(-1)[45]
    assert (change[:35] == 0).all() and change[35] > 0, "nothing beside the crop, whose first column is framed"
    assert np.abs(np.diff(change[36:60])).max() < 0.35 * change[36:60].max(), "no step"
    whole = track_of(0).overlay(GREY[:, :90], 0)
    assert (whole == 100).all(), "no frame where the crop is the picture"


@pytest.mark.slow
def test_the_grid_shows_frames_above_their_heat_maps(predictor):
    frames = moving_frames(40)
    timeline = follow(predictor, FramesInMemory(frames), explain=True)
    grid = draw_heat_grid(FramesInMemory(frames), timeline)
    # by hand: 16 frames in 2 rows of 8, cells 160 x 120 under captions of 30 pixels, 4 pixels apart; 26 for the scale
    assert grid.shape == (2 * (2 * 120 + 30 + 4) - 4 + 26, 8 * (160 + 4) - 4, 3)
    shown = np.asarray(Image.fromarray(grid[30:150, :160]).resize((64, 48), Image.Resampling.BOX)).astype(int)
    assert np.abs(shown - frames[0]).mean() < 8
    change = [np.abs(grid[y : y + 120].astype(int) - grid[y + 120 : y + 240]).sum() for y in (30, 304)]
    assert max(change) > 0


def test_the_command_line_writes_grids_and_heat_into_the_annotated_video(checkpoint, tmp_path):
    source = write_moving_video(tmp_path / "a.mp4", 20)
    words = ["--checkpoint", str(checkpoint), "--device", "cpu", "--quick", str(source)]
    words += ["--heatmap", str(tmp_path / "heat.png"), "--annotate", str(tmp_path / "out.mp4")]
    assert run_inference.main(words) == 0
    assert Image.open(tmp_path / "heat.png").size[0] == 8 * 164 - 4
    with av.open(str(tmp_path / "out.mp4")) as container:
        drawn = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(drawn) == 20
    predictor = load_predictor(checkpoint, device="cpu", **QUICK)
    with av.open(str(source)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    curve, heat = follow(predictor, FramesInMemory(frames), explain=True)
    for i in (3, 12):
        picture = np.asarray(Image.fromarray(frames[i]).resize((480, 360), Image.Resampling.BICUBIC))
        sure = (curve.at(np.array([i])).max() - 1 / 7) / (6 / 7)
        expected = heat.overlay(picture, i, sure)
        # the caption covers the top, the scale the bottom
        assert np.abs(drawn[i][120:320].astype(int) - expected[120:320]).mean() < 6
