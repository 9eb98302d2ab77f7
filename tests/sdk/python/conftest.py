"""One hub for the session; devices of their own for each test."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import harness  # noqa: E402
from hub_under_test import HubUnderTest  # noqa: E402


@pytest.fixture(scope="session")
def hub():
    if "HOLDFAST_CONNECTION_FILE" in os.environ:
        yield HubUnderTest(harness.RunningHub(os.environ["HOLDFAST_CONNECTION_FILE"]))
        return
    with harness.Hub() as running:
        yield HubUnderTest(running)


@pytest.fixture
def own_hub():
    """A hub that the test may stop, kill and start again."""
    running = harness.Hub()
    try:
        running.start()
        yield HubUnderTest(running)
    finally:
        if running.process is not None and running.process.poll() is None:
            running.stop()
        running.discard()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the hub said last."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for name in ("hub", "own_hub"):
            used = item.funcargs.get(name)
            if used is not None:
                report.sections.append((f"{name}'s log", used.running.last_log_lines()))
