# What the jobs of a study have in common; sourced by each.
# shellcheck shell=bash disable=SC2034,SC2154

# shellcheck source-path=SCRIPTDIR source=site.sh
source "${MRSCALE_SITE:-$MRSCALE_SLURM/site.sh}"
activate

# Dask works in blocks and Spark in tasks: one thread of BLAS in each.
export OMP_NUM_THREADS=1
# srun does not take it from sbatch, and would give each worker one core.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
umask 077 # keys, logs and results are the user's own

nodes=$SLURM_JOB_NUM_NODES
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Free on this node, which is the first: other jobs may share it.
port=$(python -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])')

# Keys of this attempt and logs of its engines, where every node sees them.
meeting=$(dirname -- "$study")/.mrscale-slurm/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
mkdir -p "$meeting"

# Whatever ends the job, what it has started in the background ends with it; the logs stay.
finish() {
  local code=$?
  trap - EXIT
  rm -f -- "$meeting"/*.pem "$meeting"/*.conf
  ((code == 0)) || echo "logs of the engines, if it had any: $meeting" >&2
  # shellcheck disable=SC2046
  kill $(jobs -p) 2>/dev/null || true
  wait || true
  exit "$code"
}
trap finish EXIT

# Run the stage in the background, so that the signal before the time limit is heard: the job then
# goes back into the queue, and continues where it was.
stage() {
  local again=no
  trap 'again=yes; kill -TERM "$work"' USR1
  "$@" &
  local work=$! code=0
  wait "$work" || code=$?
  trap - USR1
  if [[ $again == yes ]]; then
    wait "$work" || true
    echo "the time is nearly over; back into the queue, to continue" >&2
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60 # until SLURM ends this attempt
  fi
  return "$code"
}
