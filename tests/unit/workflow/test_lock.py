"""The lock of a run folder: one holder at most, whatever races, dies or sleeps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mrscale.config import Study
from mrscale.errors import RunError
from mrscale.provenance import Clock
from mrscale.workflow import lock
from mrscale.workflow.lock import RunLock, locked
from mrscale.workflow.runfolder import RunFolder

HOLD = """
import sys, time
from pathlib import Path
from mrscale.workflow.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""
RACE = """
import os, sys, time
from pathlib import Path
from mrscale.errors import RunError
from mrscale.workflow.lock import locked
run, inside, taken = Path(sys.argv[1]), Path(sys.argv[2]), 0
until = time.monotonic() + float(sys.argv[3])
while time.monotonic() < until:
    try:
        with locked(run):
            inside.open("x").close()  # fails if another is inside
            time.sleep(0.001)
            inside.unlink()
            taken += 1
            if taken == 20:
                inside.open("x").close()
                inside.unlink()
                os._exit(9)  # die with the lock
    except RunError:
        pass
print(taken)
"""
ELSEWHERE = {"host": "node7", "pid": 41, "pids": "other", "started": 1.0, "since": "then"}


def start(script, *words):
    words = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of ``run``."""
    process = start(HOLD, tmp_path / "run")
    assert process.stdout.readline() == "held\n", process.communicate()
    yield process
    process.kill()
    process.communicate()


def study(folder):
    return Study(name="mine", run=str(folder))


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path, holder):
    (tmp_path / "run" / "run.json").write_text('{"study": "mine"}')
    message = rf"is in use: process {holder.pid} on \S+ works on it since \S+; wait until it has"
    with pytest.raises(RunError, match=message), RunFolder.held(study(tmp_path / "run")):
        pass


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    begun = time.monotonic()
    with locked(tmp_path / "run"):
        assert time.monotonic() - begun < 5
    with locked(tmp_path / "run"):
        pass
    assert len(list((tmp_path / "run" / "lock").iterdir())) == 1, "old numbers are swept"


def test_a_process_of_the_same_number_that_started_later_is_not_the_owner(tmp_path):
    mine = lock._myself()
    place = tmp_path / "lock" / "000001.json"
    place.parent.mkdir()
    place.write_text(json.dumps(mine | {"started": mine["started"] - 60}))
    with locked(tmp_path):
        pass


def test_a_thread_goes_on_in_its_own_lock_and_another_is_refused(tmp_path):
    found = []

    def other():
        try:
            with locked(tmp_path):
                found.append("taken")
        except RunError as error:
            found.append(str(error))

    with locked(tmp_path), locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another thread of this process" in found[0]
    with locked(tmp_path):
        pass


def elsewhere(run, age):
    """A lock of another machine whose last sign of life is this old."""
    place = run / "lock" / "000003.json"
    place.parent.mkdir()
    place.write_text(json.dumps(ELSEWHERE))
    os.utime(place, (time.time() - age,) * 2)
    return place


@pytest.mark.parametrize("age", [0, 0.5])
def test_an_owner_elsewhere_with_signs_of_life_is_believed(tmp_path, age):
    elsewhere(tmp_path, age)
    with pytest.raises(RunError, match=r"process 41 on node7 .* if its machine is gone, that wo"):
        RunLock(tmp_path, heartbeat=0.5).take()


@pytest.mark.parametrize("age", [100, -100], ids=["silent", "with a clock that is ahead"])
def test_an_owner_elsewhere_without_signs_of_life_is_watched_and_given_up(tmp_path, age):
    elsewhere(tmp_path, age)
    taken = RunLock(tmp_path, heartbeat=0.2)
    begun = time.monotonic()
    taken.take()
    assert time.monotonic() - begun > 0.4
    assert taken.is_mine
    taken.give_up()


def test_an_owner_elsewhere_whose_clock_is_behind_is_seen_to_live(tmp_path):
    place = elsewhere(tmp_path, 100)
    threading.Timer(0.2, os.utime, (place, (time.time() - 99,) * 2)).start()
    with pytest.raises(RunError, match="process 41 on node7"):
        RunLock(tmp_path, heartbeat=0.5).take()


def test_a_holder_gives_signs_of_life(tmp_path):
    held = RunLock(tmp_path, heartbeat=0.05)
    held.take()
    file = tmp_path / "lock" / "000001.json"
    os.utime(file, (0, 0))
    deadline = time.monotonic() + 20
    while file.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    held.give_up()
    assert json.loads(file.read_text()) == {}


def test_a_holder_that_was_taken_over_finishes_nothing(tmp_path):
    with RunFolder.held(study(tmp_path)) as folder:
        (tmp_path / "lock" / "000002.json").write_text(json.dumps(ELSEWHERE))
        with pytest.raises(RunError, match="was taken over by another process"):
            folder.finish("train", "digest", Clock())
        assert folder.done("train") is None
    assert json.loads((tmp_path / "lock" / "000002.json").read_text()) == ELSEWHERE


def test_a_file_that_is_being_made_counts_as_held(tmp_path):
    place = elsewhere(tmp_path, 0)
    place.write_bytes(b"")
    with pytest.raises(RunError, match="process unknown"):
        RunLock(tmp_path).take()


def test_eight_processes_that_race_and_die_are_never_two_inside(tmp_path):
    run, inside = tmp_path / "run", tmp_path / "inside"
    racers = [start(RACE, run, inside, 8) for _ in range(8)]
    ends = [(racer.communicate(timeout=100), racer.returncode) for racer in racers]
    assert {code for _, code in ends} <= {0, 9}, ends
    assert any(code == 9 for _, code in ends), "somebody died with the lock"
    with locked(Path(run)):
        assert not inside.exists()
