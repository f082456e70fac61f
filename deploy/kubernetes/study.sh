#!/bin/bash
# A study on Kubernetes, one stage after the other; the same command again does only what is missing.
#
#   deploy/kubernetes/study.sh deploy/kubernetes/overlays/cpu
set -euo pipefail

overlay=${1:?"say which overlay: $0 deploy/kubernetes/overlays/cpu"}
namespace=mrscale

kubectl_here() { kubectl --namespace "$namespace" "$@"; }

# What a stage is in this overlay, as kubectl names it: job.batch/train, or the kind of an operator.
resource() {
  grep -E "^(job|pytorchjob|sparkapplication)\.[a-z0-9.]+/$1\b" <<<"$made" | cut -d ' ' -f 1
}

# Stages cannot be changed once they are there; what they did is in the store and the run folder.
made=$(kubectl apply --kustomize "$overlay" --dry-run=client --output name)
for stage in extract train estimate; do
  kubectl_here delete "$(resource "$stage")" --ignore-not-found
done
kubectl apply --kustomize "$overlay"

for stage in extract train estimate; do
  what=$(resource "$stage")
  case $what in
    job.*)
      go='{"spec":{"suspend":false}}' done=condition=complete failed=condition=failed
      ;;
    pytorchjob.*)
      go='{"spec":{"runPolicy":{"suspend":false}}}' done=condition=Succeeded failed=condition=Failed
      ;;
    sparkapplication.*)
      state='jsonpath={.status.applicationState.state}'
      go='{"spec":{"suspend":false}}' done=$state=COMPLETED failed=$state=FAILED
      ;;
  esac
  kubectl_here patch "$what" --type merge --patch "$go"
  until kubectl_here wait --for="$done" "$what" --timeout=30s 2>/dev/null; do
    if kubectl_here wait --for="$failed" "$what" --timeout=0 2>/dev/null; then
      echo "$stage failed: kubectl --namespace $namespace describe $what" >&2
      exit 1
    fi
  done
  if [[ $stage == extract && $what == job.* ]]; then
    kubectl_here scale deployment/spark-worker --replicas=0
  fi
done
