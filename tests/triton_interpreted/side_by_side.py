"""Triton's interpreter, but all programs of a launch at once: arrays instead of a Python loop over programs.

Program ids become arrays (programs, 1), so a block becomes (programs, block) by numpy's broadcasting, and the cost of
a launch no longer grows with its grid. It fits kernels whose blocks have one dimension and whose branches and loops do
not depend on the program. Programs advance in step, which also shows when one reads what another has overwritten.
"""

import contextlib
import itertools

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

HANDLE = interpreter.TensorHandle
BUILDER = interpreter.InterpreterBuilder


@contextlib.contextmanager
def side_by_side(hosts, monkeypatch):
    """Replaces `launch` of the modules `hosts`, and what in the interpreter takes a block for one program's."""
    grid = []

    def launch(kernel, sizes, tile, **arguments):
        grid[:] = [np.array(ids, dtype=np.int32).reshape(-1, 1) for ids in _program_ids(sizes)]
        kernel[(1,)](**arguments)

    def splat(self, block, scalar):
        return HANDLE(np.broadcast_to(scalar.data, (*scalar.data.shape[:-1], *block.shape)), scalar.dtype.scalar)

    def load(self, pointer, mask, other, *_):
        kind = pointer.get_element_ty()
        if mask is None:
            mask = HANDLE(np.ones_like(pointer.data, dtype=bool), tl.int1)
        if other is None:
            other = HANDLE(np.zeros(1, dtype=interpreter._get_np_dtype(kind)), kind)
        at, shown, rest = (np.ascontiguousarray(a) for a in np.broadcast_arrays(pointer.data, mask.data, other.data))
        return HANDLE(interpreter._interpreter.load(at, shown, rest, interpreter._get_np_dtype(kind)), kind)

    def store(self, pointer, value, mask, *_):
        mask = HANDLE(np.ones(1, dtype=bool), tl.int1) if mask is None else mask
        arrays = np.broadcast_arrays(pointer.data, value.data, mask.data)
        interpreter._interpreter.store(*(np.ascontiguousarray(array) for array in arrays))

    def gather(self, source, index, _axis):
        values, at = np.broadcast_arrays(source.data, index.data)
        return HANDLE(np.take_along_axis(values, at, axis=-1), source.dtype.scalar)

    def sum_of_block(self, block):
        total = np.sum(block.handle.data, axis=-1, keepdims=True, dtype=block.handle.data.dtype)
        return tl.core.tensor(HANDLE(total, block.dtype.scalar), block.dtype)

    patches = {
        "create_get_program_id": lambda self, axis: HANDLE(grid[axis], tl.int32),
        "create_splat": splat,
        "create_masked_load": load,
        "create_load": lambda self, pointer, *_: load(self, pointer, None, None),
        "create_gather": gather,
        "create_masked_store": store,
        "create_store": lambda self, pointer, value, *_: store(self, pointer, value, None),
    }
    with monkeypatch.context() as patch:
        for name, function in patches.items():
            patch.setattr(BUILDER, name, function)
        patch.setattr(interpreter.ReduceOps, "sum", sum_of_block)
        # Triton computes whether integers overflow, and does not look at the result unless it debugs.
        options = interpreter.InterpreterOptions(sanitize_overflow=False)
        patch.setattr(interpreter.interpreter_builder, "options", options)
        patch.setattr(interpreter, "_patch_lang", _patch_once(interpreter._patch_lang))
        for host in hosts:
            patch.setattr(host, "launch", launch)
        yield


def _program_ids(sizes):
    """The three ids of every program, (3, programs)."""
    return zip(*itertools.product(*(range(size) for size in (*sizes, 1, 1)[:3])), strict=True)


def _patch_once(patch_lang):
    """Nested kernel functions find the language patched already; patching it again takes most of their time."""
    depth = [0]

    class Nested:
        def restore(self):
            pass

    class WholeLanguage:
        __globals__ = {"tl": tl, "core": tl.core}  # what Triton's own library functions call, too

    class Outermost:
        def __init__(self):
            depth[0] += 1
            self.scope = patch_lang(WholeLanguage)

        def restore(self):
            depth[0] -= 1
            self.scope.restore()

    return lambda function: Nested() if depth[0] else Outermost()
