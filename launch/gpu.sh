#!/usr/bin/env bash
# Trains on the GPUs of one machine, in one process, after `pip install -e ".[cuda,stream]"`.
#
#   launch/gpu.sh [--gpus=0,1] [--mem-fraction=0.9] [--dry-run] -- --config=FILE --workdir=DIR ...
#
# Arguments after -- go to `random-pruning train`. SIGTERM is passed on: the run saves and ends with
# status 75, and the same command resumes it. --dry-run prints the command.
set -euo pipefail

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit "$1"
}

gpus='' fraction='' dry=''
while (($#)); do
  case $1 in
    --gpus=*) gpus=${1#*=} ;;
    --mem-fraction=*) fraction=${1#*=} ;;
    --dry-run) dry=yes ;;
    --help) usage 0 ;;
    --) shift && break ;;
    *) echo "gpu.sh: unknown argument $1; what is for training comes after --" >&2 && usage 2 >&2 ;;
  esac
  shift
done
(($#)) || { echo 'gpu.sh: --config=FILE must be given after --' >&2 && exit 2; }

# Without this JAX would train on the CPU where CUDA does not start.
settings=("JAX_PLATFORMS=${JAX_PLATFORMS:-cuda}")
[[ -z $gpus ]] || settings+=("CUDA_VISIBLE_DEVICES=$gpus")
[[ -z $fraction ]] || set -- "$@" "--mem-fraction=$fraction"
command=(env "${settings[@]}" random-pruning train "$@")
if [[ $dry ]]; then
  printf '%q ' "${command[@]}" && echo
  exit 0
fi
exec "${command[@]}" # SIGTERM reaches the run itself
