"""A stand-in for CUDA graphs on the CPU: it records the PyTorch operations of a step and repeats them in place.

Like a graph, it freezes everything but the contents of tensors, draws random numbers anew, and refuses to wait for the
device. Unlike a graph, it computes while it records, so it puts back what that changed.
"""

import copy

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default}


class Tape(TorchDispatchMode):
    """Records every operation with its tensors."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in WAITING, f"{function} waits for the device"
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        for function, args, kwargs, recorded in self.calls:
            result = function(*args, **kwargs)
            for place, value in zip(tensors(recorded), tensors(result), strict=True):
                if place.untyped_storage().data_ptr() != value.untyped_storage().data_ptr():
                    place.copy_(value)


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def record(state):
    """Return a `capture` for `GraphedStep` that leaves weights, moments and EMA of `state` as they were."""

    def capture(step):
        tape = Tape()
        modules = [state.objective, *([state.ema.module] if state.ema else [])]
        before = copy.deepcopy([*(module.state_dict() for module in modules), dict(state.optimizer.state)])
        with torch.random.fork_rng(devices=[]), tape:
            result = step()
        after = tensors([*(module.state_dict() for module in modules), dict(state.optimizer.state)])
        with torch.no_grad():
            for place, value in zip(after, tensors(before), strict=True):
                place.copy_(value)

        @torch.no_grad()
        def replay():
            tape.replay()
            return result

        return replay

    return capture
