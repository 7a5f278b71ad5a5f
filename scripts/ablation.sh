#!/usr/bin/env bash
# Train with residual and mask on and off, types v1 and v2, both initial step sizes, three seeds each; write
# docs/ablation.md.
#
#   bash scripts/ablation.sh                                    moving digits on two CPU cores, within an hour
#   bash scripts/ablation.sh --data_root DIR --model tiny --frames 16 --gpus 8 [--data_set k400] [flags of the run]
#
# Paths are relative to the repository. Finished runs are not repeated: start the same command again to continue. Other
# options: python -m benchmarks.ablation -h
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
if [[ -z ${PYTHON:-} && -x .venv/bin/python ]]; then
    python=.venv/bin/python
fi
exec "$python" -m benchmarks.ablation "$@"
