#!/bin/bash
# Initialisation action, run as root on every machine of the cluster after Hail's own: mrscale for
# the Python that Hail and Spark's workers use.
set -euo pipefail

from=$(/usr/share/google/get_metadata_value attributes/mrscale)
python=/opt/conda/default/bin/python
here=$(mktemp -d)
cd "$here"
gsutil -q cp "$from/mrscale-*.whl" "$from/constraints.txt" .

# Hail and Spark are those of the image and of hailctl; torch only has to be there.
grep -vE '^(hail|pyspark|py4j|torch)==' constraints.txt >tested.txt
"$python" -m pip install --quiet --index-url https://download.pytorch.org/whl/cpu \
  "$(grep '^torch==' constraints.txt)"
"$python" -m pip install --quiet --constraint tested.txt "$(echo mrscale-*.whl)[gcs]"
"$python" -c 'import hail, pipelines.extract'
