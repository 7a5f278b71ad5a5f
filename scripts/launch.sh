#!/usr/bin/env bash
# Starts a recipe on one GPU, several, or several machines; the other scripts here call it.
#
#   bash scripts/launch.sh SCRIPT DATA_SET [--data_root DIR] [--model tiny|small|middle] [--frames N] [--res PIXELS]
#        [--gpus N] [--nodes N --node_rank R --master_addr HOST [--master_port PORT]] [--dry_run] [any flag of SCRIPT]
#
#   SCRIPT     run_class_finetuning.py, run_pretrain_imagenet.py or run_action_detection.py
#   DATA_SET   a file of recipes/; the run is MODEL_fFRAMES_resRES of it, or MODEL_resRES without --frames
#   --data_root DIR   what the paths in the lists start from; train.csv, val.csv and test.csv lie there too,
#                     unless --data_path says where
#   --gpus N   GPUs of each machine; 0 computes on the CPU. Fewer or more than the recipe's change the accumulation,
#              not the batch of an update.
#   --recipe NAME     instead of the name made of model, frames and resolution
#
# On several machines, start the same command on each with its --node_rank (0 on --master_addr), or use slurm.sbatch.
set -euo pipefail
cd "$(dirname "$0")/.."

script=$1 data_set=$2
shift 2
model=tiny frames="" res=224 gpus=1 nodes=1 node_rank=0 master_addr="" master_port=29500
data_root="" data_path="" recipe="" dry_run=false
flags=()

need() { # need FLAG VALUES_LEFT: an option at the end of the line has lost its value
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
        echo "--$number must be a whole number, not '${!number}'" >&2
        exit 2
    fi
done
if ((nodes < 1 || node_rank >= nodes)); then
    echo "--nodes $nodes and --node_rank $node_rank do not fit: ranks count from 0 to nodes - 1" >&2
    exit 2
fi
if ((nodes > 1)) && [[ -z $master_addr ]]; then
    echo "--nodes $nodes needs --master_addr, the machine of --node_rank 0" >&2
    exit 2
fi

python=${PYTHON:-python}
if [[ -z ${PYTHON:-} && -x .venv/bin/python ]]; then
    python=.venv/bin/python
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
    # The id names a log folder: no slash in it.
    rdzv_id=${SLURM_JOB_ID:-${recipe//\//-}}
    is_host=$([[ $node_rank == 0 ]] && echo true || echo false)
    launcher+=(-m torch.distributed.run --nnodes "$nodes" --nproc_per_node "$processes" --rdzv_backend c10d
        --rdzv_endpoint "$master_addr:$master_port" --rdzv_id "$rdzv_id" --rdzv_conf "is_host=$is_host")
elif ((processes > 1)); then
    launcher+=(-m torch.distributed.run --standalone --nproc_per_node "$processes")
fi

# The command line comes last: later flags win over what stands above.
command+=(${flags[@]+"${flags[@]}"})
echo "+ ${launcher[*]} ${command[*]}" >&2
if $dry_run; then
    # One process looks at everything that the others would share.
    exec "$python" "${command[@]}" --dry_run $((nodes * processes))
fi
if ((${#launcher[@]} == 1)); then
    exec "${launcher[@]}" "${command[@]}"
fi

# Stopped by a signal, this script ends with 75 like a single process (docs/engine.md). torchrun ends with 1 whatever its
# processes end with; they leave their status in a file.
VIDEOMAMBAPRO_EXIT_FILE=$(mktemp)
export VIDEOMAMBAPRO_EXIT_FILE
torchrun="" stopped=false
trap 'rm -f "$VIDEOMAMBAPRO_EXIT_FILE"' EXIT
trap 'stopped=true; kill -TERM "$torchrun" || true' TERM
trap 'kill -INT "$torchrun" || true' INT
trap 'pkill -USR1 -P "$torchrun" || true' USR1
# SIGUSR1 would end torchrun: it is ignored, which programs inherit until they set a handler, as its processes do.
(trap '' USR1 && exec "${launcher[@]}" "${command[@]}") &
torchrun=$!
while kill -0 "$torchrun" 2>/dev/null; do # a signal ends a wait too early
    wait "$torchrun" || true
done
status=0
wait "$torchrun" || status=$?
if [[ -s $VIDEOMAMBAPRO_EXIT_FILE ]]; then
    status=$(<"$VIDEOMAMBAPRO_EXIT_FILE")
elif $stopped && ((status != 0)); then
    # The processes could not agree on it, as in the first seconds; but the signal was not theirs.
    echo "stopped by SIGTERM: leaving with status 75" >&2
    status=75
fi
exit "$status"
