#!/bin/bash
# The extraction of a study on a running cluster; again after an interruption, it continues.
#
#   BUCKET=gs://... REGION=us-central1 deploy/dataproc/submit.sh NAME study.toml gs://.../store.zarr
set -euo pipefail

name=${1:?"say which cluster: $0 NAME study.toml STORE"}
study=${2:?"say which study: $0 NAME study.toml STORE"}
store=${3:?"say where the store is or will be: $0 NAME study.toml STORE"}
shift 3
region=${REGION:?"name the region: REGION=us-central1"}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

hailctl dataproc submit "$name" "$here/on_spark.py" \
  --region "$region" ${PROJECT:+--project "$PROJECT"} --files "$study" "$@" \
  -- extract "$(basename -- "$study")" --out "$store" --quiet
