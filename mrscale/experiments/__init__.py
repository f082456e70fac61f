"""The experiments of Huang, Robinson and Locatello (2026, *ICML*, arXiv 2602.19782), run again.

Data sets whose truth is known (:mod:`~mrscale.experiments.cases`), every estimator on each
(:mod:`~mrscale.experiments.estimators`), spread over workers and continued where they were
interrupted (:mod:`~mrscale.experiments.running`).
"""
