#!/bin/bash
# A study on Kubernetes, one job after the other; the same command again does only what is missing.
#
#   deploy/kubernetes/study.sh deploy/kubernetes/overlays/cpu
set -euo pipefail

overlay=${1:?"say which overlay: $0 deploy/kubernetes/overlays/cpu"}
namespace=mrscale

kubectl_here() { kubectl --namespace "$namespace" "$@"; }

# Jobs cannot be changed once they are there; what they did is in the store and the run folder.
kubectl_here delete job extract train estimate --ignore-not-found
kubectl apply --kustomize "$overlay"

for stage in extract train estimate; do
  kubectl_here patch "job/$stage" --type merge --patch '{"spec":{"suspend":false}}'
  until kubectl_here wait --for=condition=complete "job/$stage" --timeout=30s 2>/dev/null; do
    if kubectl_here wait --for=condition=failed "job/$stage" --timeout=0 2>/dev/null; then
      echo "$stage failed: kubectl --namespace $namespace logs job/$stage" >&2
      exit 1
    fi
  done
  if [[ $stage == extract ]]; then
    kubectl_here scale deployment/spark-worker --replicas=0
  fi
done
