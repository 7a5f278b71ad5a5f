"""Rank and world size from the variables of torchrun, of SLURM, or none; logging of other ranks."""

import logging

import pytest
import torch

from engines.distributed import first_host, gather_objects, init_distributed, place_from_environment
from engines.logs import setup_logging

VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_LOCALID",
    "SLURM_NODELIST",
    "SLURM_STEP_NODELIST",
    "SLURM_JOB_ID",
    "MASTER_ADDR",
    "MASTER_PORT",
)


@pytest.fixture
def environment(monkeypatch):
    for name in VARIABLES:
        # Set before it is removed: what the code itself sets is then taken back after the test as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def test_a_lone_process(environment):
    context = init_distributed("cpu")
    assert (context.rank, context.world_size, context.device, context.is_main) == (0, 1, torch.device("cpu"), True)
    assert gather_objects("x") == ["x"]


def test_torchrun(environment):
    environment(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", SLURM_PROCID="0", SLURM_NTASKS="1")
    assert place_from_environment() == (5, 8, 1)


def test_slurm_and_its_meeting_point(environment):
    import os

    environment(
        SLURM_PROCID="9", SLURM_NTASKS="16", SLURM_LOCALID="1", SLURM_NODELIST="gpu[07-08]", SLURM_JOB_ID="40123"
    )
    assert place_from_environment() == (9, 16, 1)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu07", "20123")


def test_slurm_job_of_many_tasks_with_a_step_of_one(environment):
    environment(SLURM_PROCID="0", SLURM_NTASKS="8", SLURM_STEP_NUM_TASKS="1", SLURM_LOCALID="0")
    assert place_from_environment() == (0, 1, 0)


@pytest.mark.parametrize(
    ("short", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[007-009,12],login", "gpu007"),
        ("gpu[3,5]", "gpu3"),
        ("a[1-2]-ib,b", "a1-ib"),
    ],
)
def test_first_host(short, first):
    assert first_host(short) == first


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_device_says_what_to_do(environment):
    with pytest.raises(ValueError, match="--device cpu"):
        init_distributed("cuda")


def test_other_ranks_log_errors_alone(capfd, monkeypatch):
    # The handlers made here write to a stream that ends with this test.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    setup_logging(1)
    logging.getLogger("engines.test").warning("quiet")
    logging.getLogger("engines.test").error("loud")
    setup_logging(0)
    logging.getLogger("engines.test").info("hello")
    reported = capfd.readouterr().err
    assert "quiet" not in reported and "loud" in reported and reported.count("hello") == 1


def test_a_misspelt_device_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="--device gpu: PyTorch has no such device; use cpu, cuda or cuda:N"):
        init_distributed("gpu")
