#!/usr/bin/env bash
# Trains on a slice of a TPU pod, from its creation to its deletion, with a bucket for data and runs.
#
#   launch/tpu_pod.sh COMMAND --name=NAME --zone=ZONE [options] [-- --config=FILE --workdir=DIR ...]
#
#   train     all of: create, install, mount, run; again from create when the slice is preempted
#   create    asks for a queued resource and waits until it is there
#   install   copies this checkout (HEAD) to every worker and installs it there, extras tpu,stream
#   mount     mounts --bucket on every worker at /mnt/bucket, by gcsfuse
#   run       starts `random-pruning train` on all workers; shows the output of all
#   logs      follows worker 0's log      delete    gives the slice back
#
#   --type=v4-32 --version=tpu-ubuntu2204-base --bucket=NAME --spot --attempts=20 --dry-run
#
# The version goes with the type: v2-alpha-tpuv5-lite with v5litepod-16 (v5e), v2-alpha-tpuv5 with
# v5p-32, v2-alpha-tpuv6e with v6e-16.
#
# Arguments after -- go to `random-pruning train`. Its work directory must be one that all workers
# see, as --workdir=/mnt/bucket/runs/NAME. Data are read from tfds/ of the bucket, unless
# --config.data_dir says where. --dry-run prints every command and runs none.
set -euo pipefail

# uv brings its own Python: that of a TPU VM's image may be older than this package needs.
readonly PYTHON=3.11 UV=https://astral.sh/uv/install.sh
readonly KEY=/usr/share/keyrings/cloud.google.asc
readonly PREEMPTED=75 MOUNT=/mnt/bucket RUN=random-pruning

usage() {
  sed -n '2,21s/^# \{0,1\}//p' "$0"
  exit "$1"
}

refuse() {
  echo "tpu_pod.sh: $1" >&2
  exit 2
}

run() {
  if [[ $dry ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}

on_workers() { # WORKERS COMMAND
  run gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" "--worker=$1" "--command=$2"
}

pause() {
  sleep "${POLL_SECONDS:-30}"
}

# NONE only on NOT_FOUND: to take any other error for it would give up a place in the queue. Errors
# that do not pass end it at once. --quiet: nobody would see what gcloud asks here.
state() {
  local error tries
  for ((tries = 0; tries < 20; tries++)); do
    error=$(gcloud compute tpus queued-resources describe "$name" "--zone=$zone" \
      '--format=value(state.state)' --quiet 2>&1 >&3) && return
    [[ $error != *NOT_FOUND* ]] || { echo NONE && return; }
    echo "tpu_pod.sh: $name has no known state: $error" >&2
    case $error in
      *PERMISSION_DENIED* | *INVALID_ARGUMENT* | *UNAUTHENTICATED* | *'not found') return 1 ;;
    esac
    pause
  done
  return 1
} 3>&1

create() {
  local now=NONE
  [[ $dry ]] || now=$(state) || return # a slice that exists, or is queued, is used
  if [[ $now == NONE ]]; then
    run gcloud compute tpus queued-resources create "$name" "--node-id=$name" "--zone=$zone" \
      "--accelerator-type=$type" "--runtime-version=$version" ${spot:+--spot} || return
  fi
  [[ ! $dry ]] || return 0
  while :; do
    now=$(state) || return
    [[ $now != ACTIVE ]] || return 0
    echo "tpu_pod.sh: $name is $now" >&2
    [[ $now != FAILED && $now != SUSPENDED && $now != NONE ]] || return 1
    pause
  done
}

install() {
  local archive=random-pruning.tar.gz
  run git -C "$(dirname "$0")/.." archive --format=tar.gz "--output=/tmp/$archive" HEAD || return
  run gcloud compute tpus tpu-vm scp "/tmp/$archive" "$name:$archive" "--zone=$zone" --worker=all ||
    return
  on_workers all "mkdir -p random-pruning && tar -xzf $archive -C random-pruning && \
{ [ -x uv/uv ] || curl -LsSf $UV | env UV_UNMANAGED_INSTALL=\$HOME/uv sh; } && \
uv/uv venv --quiet --allow-existing --python $PYTHON venv && \
uv/uv pip install --quiet --python venv/bin/python -e './random-pruning[tpu,stream]'"
}

mount() {
  [[ $bucket ]] || return 0
  # --implicit-dirs: to see folders that other tools wrote. --rename-dir-limit: a checkpoint appears
  # by renaming its folder, which is atomic in buckets with a hierarchical namespace. A VM that has
  # just started installs its own updates, and locks others out for minutes.
  on_workers all "command -v gcsfuse >/dev/null || { \
curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee $KEY >/dev/null && \
echo deb [signed-by=$KEY] https://packages.cloud.google.com/apt \
gcsfuse-\$(lsb_release -c -s) main | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null && \
for try in 1 2 3 4 5 6 7 8 9; do sudo apt-get -qq update && \
sudo apt-get -qq install -y gcsfuse && break; sleep 30; done; }; \
mountpoint -q $MOUNT || { sudo mkdir -p $MOUNT && sudo chown \$USER $MOUNT && \
gcsfuse --implicit-dirs --rename-dir-limit=200000 $bucket $MOUNT; }"
}

train() {
  (($#)) || refuse '--config=FILE must be given after --'
  local arguments same
  arguments=$(printf '%q ' "$@")
  same=$(printf %q "$arguments")
  # --distributed: a worker that does not find the others must end, and not train by itself.
  # The run and its log go on when the connection is lost (tee -p), and until the run has saved: a
  # machine that is taken away sends SIGTERM and SIGHUP to all processes of the connection.
  # gcloud gives a command again where it lost the connection, and a second process of one worker
  # would end the run on all of them: it waits for the first, and ends with its status.
  on_workers all "trap '' HUP; trap : TERM; set -o pipefail; cd random-pruning || exit; \
exec 9>>~/$RUN.lock; flock -n 9 || { echo A run still goes on here: waiting for its end.; flock 9; \
[ \"\$(cat ~/$RUN.lock)\" != $same ] || exit \$(cat ~/$RUN.status || echo 1); }; \
rm -f ~/$RUN.status; printf %s $same >~/$RUN.lock; \
TFDS_DATA_DIR=\${TFDS_DATA_DIR:-$MOUNT/tfds} ../venv/bin/random-pruning train --distributed \
$arguments 2>&1 9>&- | (trap '' TERM; exec tee -p -a ~/$RUN.log); \
status=\$?; echo \$status >~/$RUN.status; exit \$status"
}

delete() {
  run gcloud compute tpus queued-resources delete "$name" "--zone=$zone" --force --quiet
}

attempt() { # `set -e` is off inside a command whose status is tested, hence each `|| return`
  part=create && create && part=install && install && part=mount && mount && part=run && train "$@"
}

settled() { # a slice that is being taken away says ACTIVE for a while yet
  local now tries
  for ((tries = 0; tries < 4; tries++)); do
    now=$(state) || return
    [[ $now == ACTIVE ]] || break
    pause
  done
  echo "$now"
}

train_until_done() {
  local status number part now
  for ((number = 1; number <= attempts; number++)); do
    status=0
    attempt "$@" || status=$?
    [[ ! $dry ]] || return 0
    ((status != 0)) || break
    echo "tpu_pod.sh: $part ended with status $status, attempt $number of $attempts" >&2
    now=PREEMPTED
    ((status == PREEMPTED)) || now=$(settled) || now=UNKNOWN
    echo "tpu_pod.sh: $name is $now" >&2
    case $now in
      PREEMPTED | SUSPENDING | SUSPENDED | FAILED) delete || true ;; # what stays, `create` finds
      NONE) return "$status" ;;
      *) echo "tpu_pod.sh: $name is kept: look, then delete" >&2 && return "$status" ;;
    esac
  done
  ((status != 0)) || delete
  return "$status"
}

(($#)) || usage 2 >&2
what=$1 && shift
name='' zone='' type=v4-32 version=tpu-ubuntu2204-base bucket='' spot='' attempts=20 dry=''
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --bucket=*) bucket=${1#*=} bucket=${bucket#gs://} ;;
    --attempts=*) attempts=${1#*=} ;;
    --spot) spot=yes ;;
    --dry-run) dry=yes ;;
    --) shift && break ;;
    *) refuse "unknown argument $1; what is for training comes after --" ;;
  esac
  shift
done
[[ $what != --help ]] || usage 0
[[ $name && $zone ]] || refuse '--name and --zone must be given'
[[ $attempts =~ ^[1-9][0-9]*$ ]] || refuse "--attempts must be a number from 1, got '$attempts'"

case $what in
  train) (($#)) || refuse '--config=FILE must be given after --' && train_until_done "$@" ;;
  create | install | mount | delete) "$what" ;;
  run) train "$@" ;;
  logs) on_workers 0 "tail -n 100 -f $RUN.log" ;;
  *) refuse "unknown command $what; known: train, create, install, mount, run, logs, delete" ;;
esac
