"""What the farm itself costs, on STAND-IN servers that answer at once and compute nothing."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest
from places import TESTS
from standins.farming import job

pytestmark = pytest.mark.server

log = logging.getLogger(__name__)

SERVERS = 2
COST = 5.0  # CPU milliseconds of the driver for a job, at most
GROWTH = 20e6  # bytes that it may grow by, from the first tenth of the jobs on


@pytest.fixture
def quick():
    """Return the addresses of stand-in servers."""
    from serving import free_port

    script = TESTS / "standins" / "quick_server.py"
    ports = [free_port() for _ in range(SERVERS)]
    processes = [subprocess.Popen([sys.executable, str(script), str(port)]) for port in ports]
    for port in ports:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/system_stats").close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    yield [f"http://127.0.0.1:{port}" for port in ports]
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_driver_costs_little_and_does_not_grow(quick, start_farm, number):
    farm = start_farm([job(n) for n in range(number)])
    begun = time.monotonic()
    driver = farm.start(*quick)
    process, memory = psutil.Process(driver.pid), []
    while driver.poll() is None:
        size = len(farm.lines())
        if size > number / 10:
            memory.append(process.memory_info().rss)
        time.sleep(0.5)
    assert driver.returncode == 0, farm.told()
    assert len({line["key"] for line in farm.lines()}) == len(farm.lines()) == number
    (cost,) = re.findall(r"the driver took ([\d.]+) ms for each", farm.told())
    megabytes = [size // 10**6 for size in memory]
    log.info("%s %.1f s, %s MB", farm.told(), time.monotonic() - begun, megabytes)
    assert float(cost) < COST
    if number > 1000:
        assert memory[-1] - memory[0] < GROWTH, memory
