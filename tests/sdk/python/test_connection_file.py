"""connection.json is a contract: these keys, and strings that the SDKs take as they are."""

import os
import socket
import ssl
import stat
import urllib.parse
import urllib.request

from azure.iot.hub import IoTHubRegistryManager
from harness import fields

POLICIES = {
    "owner": "iothubowner",
    "service": "service",
    "device": "device",
    "registryRead": "registryRead",
    "registryReadWrite": "registryReadWrite",
}


def test_the_file_has_its_keys_and_is_for_its_owner_alone(hub):
    found = hub.connection
    assert {"hostName", "caFile", "eventHub", "provisioning", "metrics", "pids", *POLICIES} <= set(found)
    assert os.path.isabs(found["caFile"])
    assert all(os.path.exists(f"/proc/{pid}") for pid in found["pids"])
    assert stat.S_IMODE(os.stat(hub.running.connection_file).st_mode) == 0o600


def test_every_connection_string_has_the_form_that_sdks_parse(hub):
    for name, policy in POLICIES.items():
        found = fields(hub.connection[name])
        assert list(found) == ["HostName", "SharedAccessKeyName", "SharedAccessKey"], name
        assert (found["HostName"], found["SharedAccessKeyName"]) == (hub.host, policy)
        IoTHubRegistryManager.from_connection_string(hub.connection[name])
    events = fields(hub.connection["eventHub"])
    assert list(events) == ["Endpoint", "SharedAccessKeyName", "SharedAccessKey", "EntityPath"]
    assert events["Endpoint"] == f"sb://{hub.host}/"


def test_metrics_are_served_and_the_hub_says_it_is_ready(hub):
    metrics = hub.connection["metrics"]
    with urllib.request.urlopen(metrics, timeout=10) as answer:
        assert "holdfast_" in answer.read().decode()
    for path in ("/livez", "/readyz"):
        with urllib.request.urlopen(urllib.parse.urljoin(metrics, path), timeout=10) as answer:
            assert answer.status == 200


def test_both_tls_ports_and_https_show_a_certificate_of_the_ca(hub):
    context = ssl.create_default_context(cafile=hub.ca_file)
    for port in (8883, 5671, 443):
        with socket.create_connection((hub.host, port), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname=hub.host) as tls:
                assert tls.version() in ("TLSv1.2", "TLSv1.3")
