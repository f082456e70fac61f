#!/bin/bash
# A whole study on one machine of Google Batch, from a terminal of the workbench.
#
#   deploy/batch/dsub.sh IMAGE STUDY
#
# IMAGE was built from deploy/kubernetes/Dockerfile and lies on *.gcr.io or *.pkg.dev, the only
# registries that machines without a public address reach; STUDY is a study.toml whose inputs and store
# are URLs. The run folder comes back under $WORKSPACE_BUCKET/mrscale/NAME/run when the job ends.
set -euo pipefail

image=${1:?"say which image: $0 IMAGE study.toml"}
study=${2:?"say which study: $0 IMAGE study.toml"}
: "${WORKSPACE_BUCKET:?"the workbench sets it: gs://..."}" "${GOOGLE_PROJECT:?"the workbench sets it"}"

name=$(basename -- "$(dirname -- "$(realpath -- "$study")")")
there=$WORKSPACE_BUCKET/mrscale/$name
gsutil -q cp "$study" "$there/study.toml"

# Run where the machine has its disk, with the study file of the bucket. The image's user may write
# into TMPDIR and RUN alone.
# shellcheck disable=SC2016 # expanded there
command='set -euo pipefail
cd "$TMPDIR"
{ echo "run = \"$RUN\""; grep -v "^run *=" "$STUDY"; } > study.toml
mrscale run study.toml --quiet'

# A machine that is preempted is replaced twice, by this command, which waits for the end. The store
# is in the bucket, so that the extraction continues; what was trained on that machine is trained
# again.
exec dsub \
  --provider google-batch \
  --project "$GOOGLE_PROJECT" \
  --user-project "$GOOGLE_PROJECT" \
  --regions us-central1 \
  --network global/networks/network \
  --subnetwork regions/us-central1/subnetworks/subnetwork \
  --use-private-address \
  --service-account "$(gcloud config get-value account)" \
  --image "$image" \
  --min-cores 16 \
  --min-ram 64 \
  --disk-size 200 \
  --preemptible 2 \
  --retries 2 \
  --wait \
  --name "mrscale-$name" \
  --logging "$there/logs/{job-id}.{task-attempt}.log" \
  --env GOOGLE_PROJECT="$GOOGLE_PROJECT" \
  --env WORKSPACE_BUCKET="$WORKSPACE_BUCKET" \
  --input STUDY="$there/study.toml" \
  --output-recursive RUN="$there/run" \
  --command "$command"
