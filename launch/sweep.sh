#!/usr/bin/env bash
# Submits a sweep to SLURM as a job array: N jobs of one GPU, each with its part of the runs.
#
#   launch/sweep.sh --config=FILE --workdir=DIR --jobs=N [--config.FIELD=VALUE ...] [--retry] [--skip-invalid] [--dry-run] [-- SBATCH OPTIONS ...]
#
# A preempted job is queued again and resumes; the same command again runs what is not finished.
# --dry-run lists the runs with their cost and prints what would be submitted.
set -euo pipefail

usage() {
  sed -n '2,7s/^# \{0,1\}//p' "$0"
  exit "$1"
}

config='' workdir='' jobs='' dry='' overrides=()
while (($#)); do
  case $1 in
    --config=*) config=${1#*=} ;;
    --config.*=*) overrides+=("$1") ;;
    --workdir=*) workdir=${1#*=} ;;
    --jobs=*) jobs=${1#*=} ;;
    --retry | --skip-invalid) overrides+=("$1") ;;
    --dry-run) dry=yes ;;
    --help) usage 0 ;;
    --) shift && break ;;
    *) echo "sweep.sh: unknown argument $1; options of sbatch come after --" >&2 && usage 2 >&2 ;;
  esac
  shift
done
[[ $config && $workdir ]] || { echo 'sweep.sh: --config and --workdir must be given' >&2 && exit 2; }
[[ $jobs =~ ^[1-9][0-9]*$ ]] || { echo "sweep.sh: --jobs must be a number from 1, got '$jobs'" >&2 && exit 2; }

part=(random-pruning sweep "--config=$config" "--workdir=$workdir" "${overrides[@]}")
# Array numbers and shards both count from 1. Status 75 is a run that saved because it had to stop;
# the trap keeps the shell alive until the run, which SLURM signals too, has saved. Without
# JAX_PLATFORMS JAX would train on the CPU where CUDA does not start.
script=$(
  cat << EOF
trap : TERM;
export JAX_PLATFORMS=\${JAX_PLATFORMS:-cuda};
[ -z "\$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=\$SLURM_CPUS_PER_TASK;
srun $(printf '%q ' "${part[@]}")--shard=\$SLURM_ARRAY_TASK_ID/$jobs;
status=\$?;
[ \$status != 75 ] || scontrol requeue "\$SLURM_JOB_ID";
exit \$status
EOF
)
submit=(sbatch "--array=1-$jobs" --job-name=random-pruning-sweep --ntasks=1 --gpus=1 --requeue
  --signal=TERM@120 --open-mode=append '--output=slurm-%A-%a.log' "$@" "--wrap=$script")
if [[ $dry ]]; then
  printf '%q ' "${submit[@]}" && echo
  exec "${part[@]}" --dry-run
fi
"${submit[@]}"
echo "When they are done: random-pruning report $workdir"
