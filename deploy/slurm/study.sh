#!/bin/bash
# A whole study as a chain of SLURM jobs; the same command again does only what is missing.
#
#   deploy/slurm/study.sh study.toml                    every stage
#   deploy/slurm/study.sh study.toml train estimate     some, in this order
#
# Options of sbatch for each stage (nodes, cores, partition, account) come from site.sh.
set -euo pipefail

study=$(realpath -- "${1:?"say which study: $0 study.toml"}")
shift
MRSCALE_SLURM=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export MRSCALE_SLURM
# shellcheck source-path=SCRIPTDIR source=site.sh
source "${MRSCALE_SITE:-$MRSCALE_SLURM/site.sh}"

(($#)) || set -- extract train estimate

before=()
for stage in "$@"; do
  declare -n options=${stage}_options
  # a stage whose predecessor failed can never run: it is cancelled instead of waiting for ever
  job=$(sbatch --parsable --kill-on-invalid-dep=yes "${before[@]}" "${options[@]}" \
    "$MRSCALE_SLURM/$stage.sbatch" "$study")
  job=${job%%;*} # on a federation the cluster's name follows
  echo "$stage $job"
  before=("--dependency=afterok:$job")
done
