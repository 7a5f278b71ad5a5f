"""The modules that are generated for the folder of transformers, imported from memory, and a small network."""

import sys
from types import ModuleType

from tools.transformers_folder.folder import generated_code

SIZES = dict(
    img_size=(32, 48), num_frames=4, embed_dim=32, depth=2, num_classes=5, drop_path_rate=0.0, backend="portable"
)


def module_of(entry):
    module = ModuleType(f"generated_{entry.rpartition('.')[2]}")
    sys.modules[module.__name__] = module  # dataclasses and annotations look it up
    exec(compile(generated_code(entry), module.__name__, "exec"), vars(module))
    return module
