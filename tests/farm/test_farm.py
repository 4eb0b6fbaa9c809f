"""The farm on real servers: some die, one is ill, the driver is killed, a photo has no face."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from places import ROOT
from standins.farming import LIMIT, Farm, alone, job
from standins.proxy import Proxy
from standins.server import TEXT_ENCODER_PACK

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there"),
]

IDLE = 0.2  # of the surviving server's time, at most


def check(farm: Farm, good: int, errors: dict[str, str]) -> None:
    """Each job has ended once: a picture of its own, or an error that says why."""
    lines = farm.lines()
    assert Counter(line["id"] for line in lines) == Counter(
        [f"job {n}" for n in range(good)] + list(errors)
    ), farm.told()
    for line in lines:
        if line["id"] in errors:
            assert not line["ok"] and errors[line["id"]] in line["error"]
        else:
            assert line["ok"] and (farm.target / line["pictures"][0]).is_file()
    names = [name for line in lines for name in line.get("pictures", ())]
    made = {p.name for p in farm.target.iterdir() if p.suffix == ".png"}
    assert made == {*names} and len(names) == good
    assert len(list((farm.target / "identities").iterdir())) == 2


def test_every_job_ends_once_though_servers_and_the_driver_die(server, start_farm):
    """One server behind three addresses: one goes away and comes back, one answers 500."""
    bad = [job(90, id="faceless", photo="wall.png"), job(91, id="odd", workflow="flux")]
    farm = start_farm([job(n) for n in range(3)] + bad + [job(n) for n in range(3, 6)])
    with Proxy(server.url) as first, Proxy(server.url) as second, Proxy(server.url) as ill:
        ill.ill = True
        driver = farm.start(first.url, ill.url, retries=1)
        farm.wait_for(2, driver)
        farm.servers.write_text("\n".join([first.url, ill.url, second.url]))
        first.go_away()
        farm.wait_for(4, driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        with (farm.target / "results.jsonl").open("a") as torn:
            torn.write('{"key": "')
        first.come_back()
        before = farm.lines()
        driver = farm.start(first.url, ill.url, retries=1)
        assert driver.wait(LIMIT) == 1, farm.told()
    assert farm.lines()[: len(before)] == before
    assert f"{len(before)} ended before" in farm.told()
    check(farm, 6, {"faceless": "No face was found", "odd": "no workflow 'flux'"})
    for line in farm.lines():
        if line["id"] in ("job 0", "job 5"):
            assert np.array_equal(farm.picture(line), alone(server, farm, int(line["id"][4:])))


@pytest.mark.slow
def test_sixty_jobs_on_two_servers(host, models, server, start_farm):
    """One of two servers is killed, a third answers 500, the driver is killed and started again."""
    from serving import Server

    bad = [job(90, id="faceless", photo="wall.png")]
    farm = start_farm([job(n) for n in range(30)] + bad + [job(n) for n in range(30, 59)])
    with (
        Server(host, models, [TEXT_ENCODER_PACK]) as second,
        Proxy(server.url) as ill,
    ):
        ill.ill = True
        driver = farm.start(server.url, second.url, ill.url)
        farm.wait_for(15, driver)
        os.kill(second.process.pid, signal.SIGKILL)
        farm.wait_for(30, driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver = farm.start(server.url, second.url, ill.url)
        assert driver.wait(LIMIT) == 1, farm.told()
    check(farm, 59, {"faceless": "No face was found"})
    for line in farm.lines():
        if line["ok"]:
            number = int(line["id"][4:])
            assert np.array_equal(farm.picture(line), alone(server, farm, number)), number
    (row,) = [line for line in farm.told().splitlines() if line.startswith(server.url)][-1:]
    busy = float(row.split()[-1].rstrip("%")) / 100
    assert busy >= 1 - IDLE, farm.told()


def test_without_its_packages_it_says_what_to_install():
    command = [sys.executable, "-S", str(ROOT / "scripts" / "farm.py"), "--help"]  # -S: none
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install -r requirements-farm.txt" in done.stderr
    assert "Traceback" not in done.stderr
