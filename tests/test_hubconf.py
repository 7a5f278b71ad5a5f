"""torch.hub reads this repository as a folder."""

from pathlib import Path

import pytest
import torch
from inference_files import CLASSES

import hubconf
from models import VideoMambaPro
from models.videomambapro import REGISTERED

ROOT = str(Path(__file__).parent.parent)


def test_the_entries_are_the_registered_networks_and_the_loader():
    entries = {name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")}
    assert entries == {*REGISTERED, "videomambapro"}  # as torch.hub.list finds them
    assert "random weights" in hubconf.videomambapro_tiny.__doc__


def test_a_network():
    model = torch.hub.load(ROOT, "videomambapro_nano", source="local", num_classes=3, img_size=32, num_frames=2)
    assert model(torch.randn(1, 3, 2, 32, 32)).shape == (1, 3)


def test_weights(checkpoint):
    model = torch.hub.load(ROOT, "videomambapro", str(checkpoint), source="local")
    wanted = torch.load(checkpoint, weights_only=True)["model"]
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    assert not model.training and model.num_classes == CLASSES


def test_a_file_that_is_not_there_is_no_repository():
    with pytest.raises(FileNotFoundError, match=r"no\.pth: there is no such file"):
        VideoMambaPro.from_pretrained("folder/no.pth")
    with pytest.raises(FileNotFoundError, match="/nowhere/run does not exist, and is no OWNER/NAME of the hub"):
        VideoMambaPro.from_pretrained("/nowhere/run")
