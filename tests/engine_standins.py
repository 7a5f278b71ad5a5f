"""Stand-ins for the model, the data and the flags that train within a moment."""

import os
import signal
import socket
from types import SimpleNamespace

import torch
import torch.multiprocessing
from forked import prepare_process, ready_server
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from common.flag_parser import FlagParser
from common.settings import from_flags
from engines.arguments import add_engine_arguments
from engines.checkpoint import resume_training
from engines.loss_settings import LossSettings, add_loss_arguments
from engines.objectives.classification import Classification
from engines.runner import fit, start_run
from engines.settings import RunSettings
from engines.state import create_training_state
from engines.train import updates_per_epoch

CLASSES = 3


class TinyModel(nn.Module):
    """Implements the model interface: clips (N, 3, T, H, W) -> logits (N, CLASSES), with random dropout."""

    def __init__(self, width=8, depth=4, classes=CLASSES, dropout=0.1):
        super().__init__()
        self.stem = nn.Conv3d(3, width, kernel_size=(1, 4, 4), stride=(1, 4, 4))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.layers = nn.ModuleList(TinyLayer(width) for _ in range(depth))
        self.norm_f = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def no_weight_decay(self):
        return {"cls_token"}

    def group_matcher(self, coarse=False):
        return {"stem": r"^cls_token|stem", "layers": [(r"^layers\.(\d+)", None), (r"^norm_f", (99999,))]}

    def forward(self, clips):
        tokens = self.stem(clips).flatten(2).transpose(1, 2) + self.cls_token
        for layer in self.layers:
            tokens = layer(tokens)
        return self.head(self.drop(self.norm_f(tokens).mean(1)))


class TinyLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.A_log = nn.Parameter(torch.zeros(width, 2))
        self.A_log._no_weight_decay = True

    def forward(self, tokens):
        return tokens + torch.tanh(self.linear(tokens)) * self.A_log.sum(-1).exp()


class MemoryVideos(Dataset):
    """`count` random clips whose class shifts their mean; `noise` draws from the global generator at each access."""

    def __init__(self, count=12, views=0, noise=0.0, broken=(), classes=CLASSES):
        generator = torch.Generator().manual_seed(5)
        self.records = [SimpleNamespace(path=f"videos/{i}.mp4", target=i % classes, line=i + 1) for i in range(count)]
        shape = (count, views, 3, 2, 8, 8) if views else (count, 3, 2, 8, 8)
        self.clips = torch.randn(shape, generator=generator)
        self.clips += torch.tensor([r.target for r in self.records]).view(-1, *[1] * (len(shape) - 1)) * 0.5
        self.noise = noise
        self.broken = set(broken)

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        if index in self.broken:
            return index, None
        return index, self.clips[index] + self.noise * torch.randn(self.clips.shape[1:])

    def collate(self, items):
        good = [(index, clip) for index, clip in items if clip is not None]
        return {
            "clips": torch.stack([clip for _, clip in good]) if good else torch.empty((0, *self.clips.shape[1:])),
            "targets": torch.tensor([self.records[index].target for index, _ in good], dtype=torch.int64),
            "indices": torch.tensor([index for index, _ in good], dtype=torch.int64),
            "unreadable": [(index, "cannot decode") for index, clip in items if clip is None],
        }


class Interrupted(MemoryVideos):
    """Sends a signal to this process, or calls a function, at access number `at`, counted from 0."""

    def __init__(self, *values, at, action=lambda: os.kill(os.getpid(), signal.SIGTERM), **settings):
        super().__init__(*values, **settings)
        self.at, self.action, self.accesses = at, action, 0

    def __getitem__(self, index):
        if self.accesses == self.at:
            self.action()
        self.accesses += 1
        return super().__getitem__(index)


class EpochSampler(Sampler):
    """Shuffle depending only on (seed, epoch), as the samplers of datasets do."""

    def __init__(self, size, seed, rank=0, world_size=1):
        self.size, self.seed, self.rank, self.world_size, self.epoch = size, seed, rank, world_size, 0
        self.start = 0

    def set_epoch(self, epoch, *, start=0):
        self.epoch, self.start = epoch, start

    def __len__(self):
        return self.size // self.world_size

    def __iter__(self):
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed * 1000 + self.epoch))
        return iter(order[self.rank :: self.world_size][self.start : len(self)].tolist())


def training_loader(dataset, batch_size=4, rank=0, world_size=1):
    sampler = EpochSampler(len(dataset), 0, rank, world_size)
    # A generator of its own, as in the data package: beginning an epoch must not draw from the global one.
    own = torch.Generator()
    return DataLoader(dataset, batch_size, sampler=sampler, drop_last=True, collate_fn=dataset.collate, generator=own)


def test_loader(dataset, batch_size=4, rank=0, world_size=1):
    own_indices = list(range(rank, len(dataset), world_size))
    return DataLoader(dataset, batch_size, sampler=own_indices, collate_fn=dataset.collate)


test_loader.__test__ = False


def make_args(*flags, **values):
    """Build engine settings from defaults, command-line `flags` and the flags of other packages."""
    parser = FlagParser()
    add_engine_arguments(parser)
    add_loss_arguments(parser)
    args = parser.parse_args(["--device", "cpu", "--no_bf16", *flags])
    others = {
        "batch_size": 4,
        "num_sample": 1,
        "test_num_segment": 2,
        "test_num_crop": 1,
        "model": "tiny",
        "sampler": "random",
    }
    for name, value in (others | values).items():
        setattr(args, name, value)
    return RunSettings.of(args)


def classify(model, args=None, classes=CLASSES):
    """Build the objective for the flags; without flags, cross entropy."""
    return Classification(model, classes, from_flags(LossSettings, SimpleNamespace(**args.flags)) if args else None)


def train(
    output_dir,
    *flags,
    epochs=2,
    noise=0.3,
    broken=(),
    batch_size=4,
    until=None,
    dataset=None,
    count=12,
    dropout=0.1,
    objective=None,
):
    """Build everything from scratch, as a new process would, and train; return the state."""
    args = make_args(
        "--output_dir",
        str(output_dir),
        "--warmup_epochs",
        "1",
        "--lr",
        "0.05",
        "--epochs",
        str(epochs),
        *flags,
        batch_size=batch_size,
    )
    context, args = start_run(args)
    dataset = dataset or MemoryVideos(count, noise=noise, broken=broken)
    loader = training_loader(dataset, batch_size, context.rank, context.world_size)
    validation = (
        None
        if args.disable_eval_during_finetuning
        else test_loader(MemoryVideos(7), 2, context.rank, context.world_size)
    )
    objective = objective or classify(TinyModel(dropout=dropout), args)
    steps = updates_per_epoch(loader, args.update_freq)
    state = create_training_state(objective, args, context, steps_per_epoch=steps)
    resume_training(state, args, context)
    if until is not None:
        args = args.changed(epochs=until)
    fit(state, loader, validation, args, context)
    return state


def assert_equal_states(first, second):
    for (name, a), b in zip(first.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    moments = [s.optimizer.state_dict()["state"] for s in (first, second)]
    assert all(torch.equal(moments[0][i]["exp_avg_sq"], moments[1][i]["exp_avg_sq"]) for i in moments[0])


def run_processes(function, world_size, *arguments):
    """Run function(rank, *arguments) in `world_size` processes with torchrun's variables set; wait for all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = (function, world_size, port, arguments, dict(os.environ))
    ready_server()
    torch.multiprocessing.start_processes(_enter, values, nprocs=world_size, start_method="forkserver")


def _enter(rank, function, world_size, port, arguments, environment):
    place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_PORT": port}
    prepare_process(environment | {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    function(rank, *arguments)
