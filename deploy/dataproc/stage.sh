#!/bin/bash
# Put what a cluster needs into the bucket: the wheel, the versions it was tested with, the scripts.
#
#   BUCKET=gs://... deploy/dataproc/stage.sh
set -euo pipefail

bucket=${BUCKET:?"name the bucket: BUCKET=gs://..."}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
wheels=$(mktemp -d)
trap 'rm -r -- "$wheels"' EXIT

# an earlier version that stayed would be installed as well
gsutil -q rm "$bucket/mrscale/mrscale-*.whl" 2>/dev/null || true
python -m pip wheel --quiet --no-deps --wheel-dir "$wheels" "$root"
gsutil -q cp "$wheels"/mrscale-*.whl "$root/constraints.txt" \
  "$here/install.sh" "$here/on_spark.py" "$bucket/mrscale/"
