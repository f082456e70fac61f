version 1.0

## A study in two tasks: genotypes to a store in a bucket, and the store to a report.
## The store is all that the tasks share: a run folder is local, and lives as long as its task.

workflow mrscale_study {
  input {
    File study            # study.toml; its `run` and `store` do not count
    String store          # where the store is or will be: gs://bucket/store.zarr
    Array[File] tables = []  # what the study file names by a relative path, without folders
    String image          # built from deploy/kubernetes/Dockerfile
    Int cpu = 8
    Int memory_gib = 32
    Int disk_gib = 100
    Int preemptible = 2
  }

  call extract {
    input:
      study = study, store = store, tables = tables, image = image,
      cpu = cpu, memory_gib = memory_gib, disk_gib = disk_gib, preemptible = preemptible
  }

  call analyse {
    input:
      study = study, store = extract.finished, tables = tables, image = image,
      cpu = cpu, memory_gib = memory_gib, disk_gib = disk_gib, preemptible = preemptible
  }

  output {
    String finished_store = extract.finished
    File report = analyse.report
    File estimates = analyse.estimates
    File result = analyse.result
  }
}

task extract {
  input {
    File study
    String store
    Array[File] tables
    String image
    Int cpu
    Int memory_gib
    Int disk_gib
    Int preemptible
  }

  # An attempt that was preempted left its blocks in the store's folder: the next one continues.
  command <<<
    set -euo pipefail
    for file in ~{study} ~{sep=" " tables}; do ln -s "$file" .; done
    mrscale extract "$(basename ~{study})" --out "~{store}" --quiet
  >>>

  output {
    String finished = store
  }

  runtime {
    docker: image
    cpu: cpu
    memory: "~{memory_gib} GiB"
    disks: "local-disk ~{disk_gib} SSD"
    preemptible: preemptible
  }
}

task analyse {
  input {
    File study
    String store
    Array[File] tables
    String image
    Int cpu
    Int memory_gib
    Int disk_gib
    Int preemptible
  }

  command <<<
    set -euo pipefail
    for file in ~{sep=" " tables}; do ln -s "$file" .; done
    { echo 'run = "run"'; echo 'store = "~{store}"'; grep -vE '^(run|store) *=' ~{study}; } > here.toml
    mrscale run here.toml --quiet
  >>>

  output {
    File report = "run/report.html"
    File estimates = "run/estimates.tsv"
    File result = "run/result.json"
  }

  runtime {
    docker: image
    cpu: cpu
    memory: "~{memory_gib} GiB"
    disks: "local-disk ~{disk_gib} SSD"
    preemptible: preemptible
  }
}
