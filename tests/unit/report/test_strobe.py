"""The checklist answers what the run knows, and nothing that may not leave."""

from __future__ import annotations

from dataclasses import replace

from mrscale.report.control import disclose
from mrscale.report.strobe import checklist
from mrscale.results import StudyResult


def test_items_are_answered_from_the_run(study: StudyResult) -> None:
    items = {item.number: item.answer for item in checklist(study)}
    assert items["4a"].startswith("Environments: env1 4,000, env2 4,000")
    assert "kept 200; call rate 3" in items["4c"]
    assert "exposure on outcome; LDL cholesterol on carotid" in items["6c"]
    assert "OLS; 2SLS, all variants" in items["6c"]
    assert "mean dosage" in items["6d"]
    assert items["6e"].startswith("2 pairs")
    dropped = checklist(replace(study, missing="drop"))
    assert "were left out" in next(i.answer for i in dropped if i.number == "6d")


def test_small_counts_are_bounds(study: StudyResult) -> None:
    few = disclose(replace(study, environments={"a": 19_983, "b": 17}, people={"odd": 13}))
    items = {item.number: item.answer for item in checklist(few)}
    assert items["4a"] == "Environments: a 19,983, b <=20."
    assert "13" not in items["10a"]
