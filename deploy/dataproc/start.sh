#!/bin/bash
# A Dataproc cluster for an extraction, with Hail and mrscale on every machine.
#
#   BUCKET=gs://... REGION=us-central1 deploy/dataproc/start.sh NAME [options of hailctl]
#
# First: deploy/dataproc/stage.sh puts what the cluster installs into the bucket.
set -euo pipefail

name=${1:?"say how the cluster is called: $0 NAME"}
shift
bucket=${BUCKET:?"name the bucket: BUCKET=gs://..."}
region=${REGION:?"name the region: REGION=us-central1"}

# No secondary workers, and none that leaves: the extraction reads the genotypes once and shuffles
# them, and a machine that goes takes its shuffle data with it, to be read and paid for again.
hailctl dataproc start "$name" \
  --region "$region" \
  --master-machine-type n1-highmem-8 \
  --worker-machine-type n1-highmem-8 \
  --num-workers 4 \
  --num-secondary-workers 0 \
  --worker-boot-disk-size 200 \
  --max-idle 30m \
  --max-age 24h \
  --init "$bucket/mrscale/install.sh" \
  --metadata "mrscale=$bucket/mrscale" \
  ${PROJECT:+--project "$PROJECT"} \
  ${PAYS:+--requester-pays-allow-buckets "$PAYS"} \
  "$@"
