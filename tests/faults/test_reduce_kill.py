"""A worker process is killed -9 in the middle of a reduction: same bits as without; or the
scheduler is: one sentence."""

from __future__ import annotations

import os
import runpy
import signal
from operator import add
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_array_equal

from mrscale.errors import EngineError
from mrscale.sampling.plan import blocks
from mrscale.stats.moments import Moments
from mrscale.stream.engine import engine
from mrscale.stream.reduce import map_blocks, reduce_blocks

Cluster = runpy.run_path(str(Path(__file__).with_name("trainings.py")))["Cluster"]
CUTS = blocks(64 * 100, 100)


def block_function(journal: Path):
    """Moments of made-up rows; every computation of a block leaves a line in a file."""

    def block(rows: slice) -> Moments:
        import time

        time.sleep(0.02)  # so that there is a middle
        with journal.open("a") as lines:
            lines.write(f"{rows.start} {os.getpid()}\n")
        values = np.random.default_rng(rows.start).normal(size=(rows.stop - rows.start, 9))
        return Moments.from_block(values * 10.0 ** np.arange(-4, 5))

    return block


def test_a_killed_worker_changes_no_bit(tmp_path):
    expected = reduce_blocks(None, CUTS, block_function(tmp_path / "calm"), Moments.combine)
    journal = tmp_path / "killed"
    done = 0.0
    victims: list[int] = []
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster) as client,
    ):

        def progress(amount: float = 1, *, note: str = "") -> None:
            nonlocal done
            done += amount
            if done >= 0.4 and not victims:
                victims.append(next(iter(cluster.workers.values())).pid)
                os.kill(victims[0], signal.SIGKILL)

        found = reduce_blocks(
            client, CUTS, block_function(journal), Moments.combine, progress=progress
        )
    assert_array_equal(found.mean, expected.mean)
    assert_array_equal(found.cross, expected.cross)
    assert found.count == expected.count
    starts, pids = zip(*(line.split() for line in journal.read_text().splitlines()), strict=True)
    assert str(victims[0]) in pids
    assert len(starts) > len(CUTS), "nothing was lost: the kill came too late"
    assert {int(start) for start in starts} == {cut.start for cut in CUTS}


@pytest.mark.parametrize(
    "pass_over", [map_blocks, lambda *words, **more: reduce_blocks(*words, add, **more)]
)
def test_without_its_scheduler_a_pass_ends_with_one_sentence(pass_over, tmp_path):
    def block(rows: slice) -> int:
        import time

        time.sleep(0.02)  # so that there is a middle
        return rows.start

    with Cluster(tmp_path, 1) as cluster:

        def progress(amount: float = 1, *, note: str = "") -> None:
            cluster.scheduler.kill()

        with (
            pytest.raises(EngineError, match=r"Dask's scheduler or workers are gone.*stopped$"),
            engine(cluster.address) as client,
        ):
            pass_over(client, CUTS, block, progress=progress)
