"""What was acknowledged is there after a stop and after a kill, under the same names, keys and numbers."""

import pytest
from hub_under_test import Reader, connected


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_acknowledged_messages_and_identities_survive(own_hub, how):
    device = own_hub.create()
    before = [str(n) for n in range(100)]
    with connected(own_hub.client(device)) as client:
        for one in before:
            client.send_message(one)
    with Reader(own_hub) as reader:
        read = [(e.body_as_str(), e.sequence_number, e.offset) for e in reader.wait_for(device.device_id, 100)]
    connection = dict(own_hub.connection)

    getattr(own_hub.running, how)()
    own_hub.running.start()

    assert {**own_hub.connection, "pids": 0} == {**connection, "pids": 0}
    assert own_hub.registry.get_device(device.device_id).etag == device.etag
    with connected(own_hub.client(device)) as client:
        client.send_message("after")
    with Reader(own_hub) as reader:
        again = [(e.body_as_str(), e.sequence_number, e.offset) for e in reader.wait_for(device.device_id, 101)]
    assert again[:100] == read
    assert again[100][0] == "after" and again[100][1] > read[-1][1]
