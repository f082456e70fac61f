# What differs from cluster to cluster; sourced by study.sh and by every job. Edit it, or name a
# copy of it in MRSCALE_SITE.
# shellcheck shell=bash disable=SC2034

# The environment with mrscale, on a file system that every node sees.
activate() {
  # shellcheck source=/dev/null
  source "${MRSCALE_VENV:?"name the virtual environment with mrscale in MRSCALE_VENV"}/bin/activate"
}

# Options of sbatch. Each stage is one task a node; the cores and the memory of a task are those
# of one Spark worker, of one Dask worker, or of all ranks of the node.
extract_options=(--nodes=2 --cpus-per-task=16 --mem=64G --time=12:00:00)
train_options=(--nodes=1 --cpus-per-task=8 --mem=32G --time=04:00:00) # GPUs: --gpus-per-node=4
estimate_options=(--nodes=2 --cpus-per-task=16 --mem=64G --time=04:00:00)

# Training ranks of a node; one for each GPU if there are any.
ranks_per_node=${SLURM_GPUS_ON_NODE:-1}
