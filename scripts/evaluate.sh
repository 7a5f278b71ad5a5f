#!/usr/bin/env bash
# Test a checkpoint. Model, type, classes, frames and resolution are read from the file.
#
#   bash scripts/evaluate.sh --checkpoint FILE --data_set k400|ssv2|ucf101|hmdb51|imagenet|custom|... --data_root DIR
#        [--gpus 8] [--output_dir DIR] [--dry_run]
#
# --data_set is a file of recipes/, which defines the sampling and the number of views. Other options: launch.sh.
set -euo pipefail
checkpoint="" data_set=custom rest=()
while (($#)); do
    case $1 in
        --checkpoint | --data_set)
            if (($# < 2)); then
                echo "$1 needs a value" >&2
                exit 2
            fi
            declare "${1#--}=$2"
            shift 2
            ;;
        *)
            rest+=("$1")
            shift
            ;;
    esac
done
if [[ -z $checkpoint ]]; then
    echo "--checkpoint FILE is required" >&2
    exit 2
fi
script=run_class_finetuning.py
if [[ $data_set == imagenet ]]; then script=run_pretrain_imagenet.py; fi
if [[ $data_set == ava ]]; then script=run_action_detection.py; fi
exec bash "$(dirname "$0")/launch.sh" "$script" "$data_set" --recipe "$data_set" --eval --finetune "$checkpoint" \
    ${rest[@]+"${rest[@]}"}
