"""The processes of a run, whether started by torchrun, by SLURM's srun or as a single process."""

import logging
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """The position of this process among the processes of the run.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        device: device of this process.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0


def init_distributed(device: str = "", *, timeout: float = 600) -> Context:
    """Join the process group that torchrun or srun describes in the environment, or run alone.

    Args:
        device: "cpu", "cuda", "cuda:N", or empty for cuda if available. With several processes, "cuda" becomes the
            device of the local rank. CUDA processes communicate through NCCL, CPU processes through gloo.
        timeout: seconds that a process waits for another before it gives up.
    Raises:
        ValueError: the device does not exist, or there are more processes on this machine than GPUs.
    """
    rank, world_size, local_rank = place_from_environment()
    resolved = resolve_device(device, local_rank, world_size)
    if resolved.type == "cuda":
        torch.cuda.set_device(resolved)
    if world_size > 1 and not dist.is_initialized():
        backend = "nccl" if resolved.type == "cuda" else "gloo"
        _logger.info("rank %d is waiting for all %d processes (%s)", rank, world_size, backend)
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout))
    return Context(rank, world_size, resolved)


def close_distributed() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gather_objects(value: Any) -> list:
    """Return every rank's `value` in rank order, on every rank. `value` must be picklable."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any) -> Any:
    """Return rank 0's `value` on every rank."""
    if not dist.is_initialized():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def first_host(node_list: str) -> str:
    """Return the first host of SLURM's short form: "gpu[07-09,12],login" -> "gpu07"."""
    match = re.match(r"([^,\[]*)(?:\[([^,\-\]]+)[^\]]*\]([^,]*))?", node_list)
    return "".join(part or "" for part in match.groups()) if match else node_list


def place_from_environment() -> tuple[int, int, int]:
    """Return (rank, world size, local rank) from the variables of torchrun or SLURM, or (0, 1, 0).

    Under SLURM, also set MASTER_ADDR and MASTER_PORT, where the processes meet, unless they are already set.
    """
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0))
    # The variables of the job step come first: in a batch script that calls python without srun, SLURM_NTASKS
    # counts tasks that were never started.
    world_size = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", 1)))
    if "SLURM_PROCID" not in env or world_size == 1:
        return 0, 1, 0
    node_list = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "127.0.0.1"))
    env.setdefault("MASTER_ADDR", first_host(node_list))
    # Two jobs on the same machine must not use the same port.
    env.setdefault("MASTER_PORT", str(20000 + int(env.get("SLURM_JOB_ID", 0)) % 20000))
    return int(env["SLURM_PROCID"]), world_size, int(env.get("SLURM_LOCALID", 0))


def resolve_device(name: str, local_rank: int = 0, world_size: int = 1) -> torch.device:
    """Return the device that `name` means for this process; see `init_distributed`."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"--device {name}: PyTorch has no such device; use cpu, cuda or cuda:N") from error
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    if count == 0:
        raise ValueError(f"--device {name}: PyTorch sees no CUDA device here; use --device cpu")
    if world_size == 1 and device.index is not None:
        index = device.index
    else:
        # A scheduler may show each process only its own GPU, which is then number 0 in every process.
        index = 0 if count == 1 and "SLURM_PROCID" in os.environ else local_rank
    if index >= count:
        raise ValueError(
            f"cuda:{index} was requested, but this machine has {count} CUDA device(s); "
            "start at most one process per device"
        )
    return torch.device("cuda", index)
