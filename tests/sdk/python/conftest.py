"""One hub for the session; devices of their own for each test."""

import os
import sys
from pathlib import Path

import certifi
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import harness  # noqa: E402
from hub_under_test import HubUnderTest, _bundle  # noqa: E402


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


@pytest.fixture
def uamqp_trusts_the_hub(monkeypatch):
    """uamqp takes no CA but certifi's, so that this one has to be among them."""
    monkeypatch.setattr(certifi, "where", lambda: _bundle.name)


@pytest.fixture(scope="session")
def strict_hub():
    """A hub with short deadlines and small limits, so that a test need not wait for a minute or open 10,000 sockets."""
    settings = {
        "mqtt.connect_timeout": "3s",
        "mqtt.max_unauthenticated": "500",
        "mqtt.expiry_jitter": "1ms",
        "net.handshake_timeout": "3s",
        "events.unauthenticated_timeout": "3s",
        "rest.body_timeout": "3s",
    }
    with harness.Hub([part for key, value in settings.items() for part in ("--set", f"{key}={value}")]) as running:
        yield HubUnderTest(running)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the hub said last."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for name in ("hub", "own_hub", "strict_hub"):
            used = item.funcargs.get(name)
            if used is not None:
                report.sections.append((f"{name}'s log", used.running.last_log_lines()))
