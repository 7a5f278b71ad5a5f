#!/usr/bin/env bash
# Start a recipe on one GPU, several GPUs or several machines; the other scripts here call this one.
#
#   bash scripts/launch.sh SCRIPT DATA_SET [--data_root DIR] [--model tiny|small|middle] [--frames N] [--res PIXELS]
#        [--gpus N] [--nodes N --node_rank R --master_addr HOST [--master_port PORT]] [--dry_run] [any flag of SCRIPT]
#
#   SCRIPT     run_class_finetuning.py, run_pretrain_imagenet.py, run_pretrain_masked.py or run_action_detection.py
#   DATA_SET   a file of recipes/; the recipe is DATA_SET/MODEL_fFRAMES_resRES, or DATA_SET/MODEL_resRES without --frames
#   --data_root DIR   folder that the paths in the lists are relative to; it also contains train.csv, val.csv and
#                     test.csv, unless --data_path names another folder
#   --gpus N   GPUs per machine; 0: use the CPU. Another number of GPUs than in the recipe changes the gradient
#              accumulation, not the global batch.
#   --recipe NAME     a recipe, instead of the one given by data set, model, frames and resolution
#
# With several machines, start the same command on each with its own --node_rank (0 on --master_addr), or use
# slurm.sbatch.
set -euo pipefail
# Not the working directory: the paths that a user types are relative to that.
repository=$(CDPATH="" cd "$(dirname "$0")/.." && pwd)

script=$repository/$1 data_set=$2
shift 2
model=tiny frames="" res=224 gpus=1 nodes=1 node_rank=0 master_addr="" master_port=29500
data_root="" data_path="" recipe="" dry_run=false
flags=()

need() { # need FLAG WORDS_LEFT: reject an option without a value at the end of the command line
    if (($2 < 2)); then
        echo "$1 needs a value" >&2
        exit 2
    fi
}

while (($#)); do
    case $1 in
        --data_root | --data_path | --model | --frames | --res | --gpus | --nodes | --node_rank | --master_addr | --master_port | --recipe)
            need "$1" $#
            declare "${1#--}=$2"
            shift 2
            ;;
        --dry_run)
            dry_run=true
            shift
            ;;
        *)
            flags+=("$1")
            shift
            ;;
    esac
done

for number in gpus nodes node_rank master_port; do
    if ! [[ ${!number} =~ ^[0-9]+$ ]]; then
        echo "--$number must be an integer, not '${!number}'" >&2
        exit 2
    fi
done
if ((nodes < 1 || node_rank >= nodes)); then
    echo "--node_rank must be between 0 and --nodes - 1, not $node_rank with --nodes $nodes" >&2
    exit 2
fi
if ((nodes > 1)) && [[ -z $master_addr ]]; then
    echo "--nodes $nodes requires --master_addr, the machine with --node_rank 0" >&2
    exit 2
fi

python=${PYTHON:-python}
if [[ -z ${PYTHON:-} && -x $repository/.venv/bin/python ]]; then
    python=$repository/.venv/bin/python
fi

recipe=${recipe:-$data_set/$model${frames:+_f$frames}_res$res}
command=("$script" --recipe "$recipe")
data_path=${data_path:-$data_root}
if [[ -n $data_root ]]; then command+=(--data_root "$data_root"); fi
if [[ -n $data_path ]]; then command+=(--data_path "$data_path"); fi
if ((gpus == 0)); then command+=(--device cpu); fi

processes=$((gpus > 0 ? gpus : 1))
launcher=("$python")
if ((nodes > 1)); then
    # The id becomes the name of a log folder, so it must not contain a slash.
    rdzv_id=${SLURM_JOB_ID:-${recipe//\//-}}
    is_host=$([[ $node_rank == 0 ]] && echo true || echo false)
    launcher+=(-m torch.distributed.run --nnodes "$nodes" --nproc_per_node "$processes" --rdzv_backend c10d
        --rdzv_endpoint "$master_addr:$master_port" --rdzv_id "$rdzv_id" --rdzv_conf "is_host=$is_host")
elif ((processes > 1)); then
    launcher+=(-m torch.distributed.run --standalone --nproc_per_node "$processes")
fi

# The user's flags come last, so that they override those above.
command+=(${flags[@]+"${flags[@]}"})
echo "+ ${launcher[*]} ${command[*]}" >&2
if $dry_run; then
    # One process checks everything for all of them.
    exec "$python" "${command[@]}" --dry_run $((nodes * processes))
fi
if ((${#launcher[@]} == 1)); then
    exec "${launcher[@]}" "${command[@]}"
fi

# When it is stopped by a signal, this script exits with 75, like a single process (docs/engine.md). torchrun always exits
# with 1, so its processes write their status to a file.
VIDEOMAMBAPRO_EXIT_FILE=$(mktemp)
export VIDEOMAMBAPRO_EXIT_FILE
torchrun="" stopped=false
trap 'rm -f "$VIDEOMAMBAPRO_EXIT_FILE"' EXIT
trap 'stopped=true; kill -TERM "$torchrun" || true' TERM
trap 'kill -INT "$torchrun" || true' INT
trap 'pkill -USR1 -P "$torchrun" || true' USR1
# SIGUSR1 would terminate torchrun, so it is ignored there. Its processes inherit this until they install a handler.
(trap '' USR1 && exec "${launcher[@]}" "${command[@]}") &
torchrun=$!
while kill -0 "$torchrun" 2>/dev/null; do # a signal interrupts `wait`
    wait "$torchrun" || true
done
status=0
wait "$torchrun" || status=$?
if [[ -s $VIDEOMAMBAPRO_EXIT_FILE ]]; then
    status=$(<"$VIDEOMAMBAPRO_EXIT_FILE")
elif $stopped && ((status != 0)); then
    # The processes wrote no status, because they were still starting or got SIGTERM from torchrun, not from a scheduler.
    echo "stopped by SIGTERM: exiting with status 75" >&2
    status=75
fi
exit "$status"
