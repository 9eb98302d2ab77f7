"""File upload with the released SDKs: azure-iot-device begins and reports, azure-storage-blob writes, a back end hears of it."""

import concurrent.futures
import hashlib
import http.server
import json
import os
import threading
import time
from datetime import datetime, timedelta, timezone

import harness
import pytest
import requests
import uamqp
from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.eventhub.extensions.checkpointstoreblob import BlobCheckpointStore
from azure.iot.hub import iothub_amqp_client
from azure.storage.blob import (
    AccountSasPermissions,
    BlobBlock,
    BlobClient,
    BlobServiceClient,
    ContainerSasPermissions,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)
from harness import fields, sas_token
from hub_under_test import HubUnderTest, connected, sender, unique, until


pytestmark = pytest.mark.usefixtures("uamqp_trusts_the_hub")


def blobs_of(hub, **more):
    connection = hub.connection["blobs"]
    return BlobServiceClient.from_connection_string(
        connection["connectionString"], connection_verify=hub.ca_file, retry_total=0, **more
    )


@pytest.fixture
def container(hub):
    with blobs_of(hub) as service:
        client = service.create_container(unique("box"))
        yield client
        client.delete_container()


def soon(minutes=10):
    return datetime.now(timezone.utc) + timedelta(minutes=minutes)


def sas_url(info):
    return f"https://{info['hostName']}/{info['containerName']}/{info['blobName']}{info['sasToken']}"


def upload_client(hub, info, **more):
    return BlobClient.from_blob_url(sas_url(info), connection_verify=hub.ca_file, retry_total=0, **more)


def begin(hub, device, name="x.txt"):
    return device_call(hub, device, "files", {"blobName": name})


def device_call(hub, device, path, body):
    token = sas_token(f"{hub.host}/devices/{device.device_id}", device.authentication.symmetric_key.primary_key)
    url = f"https://{hub.host}/devices/{device.device_id}/{path}?api-version=2021-04-12"
    return requests.post(url, json=body, headers={"Authorization": token}, verify=hub.ca_file, timeout=30)


# A device


def test_a_device_uploads_a_file_as_the_sdk_shows(hub):
    device = hub.create()
    content = os.urandom(300_000)
    with connected(hub.client(device)) as client:
        info = client.get_storage_info_for_blob("logs/today ü.bin")
        assert info["blobName"] == f"{device.device_id}/logs/today ü.bin"
        with upload_client(hub, info) as blob:
            result = blob.upload_blob(content, overwrite=True)
            assert result["etag"]
        client.notify_blob_upload_status(info["correlationId"], True, 200, "done")
    with blobs_of(hub) as service:
        stored = service.get_blob_client(info["containerName"], info["blobName"])
        assert stored.download_blob().readall() == content
        assert stored.get_blob_properties().size == len(content)


def test_a_large_file_goes_in_blocks_and_comes_back_by_ranges(hub):
    device = hub.create()
    content = os.urandom(1 << 20) * 20
    with connected(hub.client(device)) as client:
        info = client.get_storage_info_for_blob("large.bin")
    small = {"max_block_size": 1 << 20, "max_single_put_size": 1 << 20, "max_single_get_size": 1 << 20, "max_chunk_get_size": 3 << 20}
    with upload_client(hub, info, **small) as blob:
        blob.upload_blob(content, overwrite=True, max_concurrency=4)
        assert hashlib.sha256(blob.download_blob(max_concurrency=4).readall()).digest() == hashlib.sha256(content).digest()
        assert blob.download_blob(offset=(1 << 20) - 5, length=10).readall() == content[(1 << 20) - 5 : (1 << 20) + 5]
        committed, uncommitted = blob.get_block_list("all")
        assert (len(committed), len(uncommitted)) == (20, 0)


def test_the_signature_opens_one_blob_and_no_more(hub):
    device, other = hub.create(), hub.create()
    info = begin(hub, device).json()
    theirs = begin(hub, other).json()
    for url in [
        sas_url({**info, "blobName": theirs["blobName"]}),
        sas_url({**info, "blobName": f"{device.device_id}/other.txt"}),
        sas_url({**info, "sasToken": info["sasToken"].replace("sp=rw", "sp=rwd")}),
        sas_url({**info, "sasToken": info["sasToken"][:-3]}),
    ]:
        with BlobClient.from_blob_url(url, connection_verify=hub.ca_file, retry_total=0) as blob:
            with pytest.raises(ClientAuthenticationError) as refused:
                blob.upload_blob(b"x", overwrite=True)
            assert refused.value.error_code == "AuthenticationFailed"
    with upload_client(hub, info) as blob:
        blob.upload_blob(b"x")
        with pytest.raises(HttpResponseError) as refused:
            blob.delete_blob()
        assert refused.value.error_code == "AuthorizationPermissionMismatch"
    answer = requests.get(sas_url({**info, "sasToken": ""}), verify=hub.ca_file, timeout=30)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (401, "NoAuthenticationInformation")


def test_a_device_has_ten_slots_and_reports_free_them(hub):
    device = hub.create()
    slots = [begin(hub, device, f"{number}.txt") for number in range(10)]
    assert [slot.status_code for slot in slots] == [200] * 10
    full = begin(hub, device, "more.txt")
    assert (full.status_code, full.json()["errorCode"]) == (403, 403006)
    ids = [slot.json()["correlationId"] for slot in slots]
    failed = {"isSuccess": False, "statusCode": 500, "statusDescription": "the disk was full"}
    # Both forms of the path.
    assert device_call(hub, device, "files/notifications", {"correlationId": ids[0], **failed}).status_code == 204
    assert device_call(hub, device, f"files/notifications/{ids[1]}", failed).status_code == 204
    assert device_call(hub, device, f"files/notifications/{ids[1]}", failed).status_code == 204, "a repeated report"
    assert [begin(hub, device, f"{name}.txt").status_code for name in ("a", "b", "c")] == [200, 200, 403]


def test_bad_calls_are_refused_with_their_numbers(hub):
    device = hub.create()
    for body, number in [
        ({"blobName": "../x"}, 400004),
        ({"blobName": "a/../../x"}, 400004),
        ({"blobName": ""}, 400004),
        ({"blobName": "a\u0000b"}, 400004),
        ({"blobName": "x" * 1025}, 400004),
        ({"blobName": "a/" * 254 + "a"}, 400004),
        ({"blobName": 7}, 400004),
        ({}, 400004),
    ]:
        answer = device_call(hub, device, "files", body)
        assert (answer.status_code, answer.json()["errorCode"]) == (400, number), body
    for path, body, number in [
        ("files/notifications", {"isSuccess": True}, 400015),
        ("files/notifications", {"correlationId": "nothing", "isSuccess": True}, 400015),
        ("files/notifications/nothing", {"isSuccess": True}, 400015),
        ("files/notifications/nothing", {"isSuccess": "yes"}, 400019),
    ]:
        answer = device_call(hub, device, path, body)
        assert (answer.status_code, answer.json()["errorCode"]) == (400, number), (path, body)
    info = begin(hub, device, "never-written.txt").json()
    answer = device_call(hub, device, "files/notifications", {"correlationId": info["correlationId"], "isSuccess": True})
    assert (answer.status_code, answer.json()["errorCode"]) == (400, 400020)


def test_slots_and_files_survive_a_kill(own_hub):
    device = own_hub.create()
    info = begin(own_hub, device).json()
    with upload_client(own_hub, info) as blob:
        blob.upload_blob(b"synced")
    own_hub.running.kill()
    own_hub.running.start()
    with blobs_of(own_hub) as service:
        assert service.get_blob_client(info["containerName"], info["blobName"]).download_blob().readall() == b"synced"
    assert [begin(own_hub, device, f"{number}").status_code for number in range(10)] == [200] * 9 + [403]
    report = {"correlationId": info["correlationId"], "isSuccess": True}
    assert device_call(own_hub, device, "files/notifications", report).status_code == 204


# Back ends: the Blob SDK against the embedded endpoint


def test_blobs_are_written_listed_changed_and_removed(container):
    for name in ["a/1", "a/2", "a/b/3", "c", "d ü&<'\"+%"]:
        container.upload_blob(name, name.encode(), metadata={"own": "x", "number": "7"})
    with pytest.raises(ResourceExistsError) as there:
        container.upload_blob("c", b"again")
    assert there.value.error_code == "BlobAlreadyExists"
    names = [blob.name for blob in container.list_blobs()]
    assert names == ["a/1", "a/2", "a/b/3", "c", "d ü&<'\"+%"]
    assert [blob.name for blob in container.list_blobs(name_starts_with="a/", results_per_page=1)] == names[:3]
    assert sorted(item.name for item in container.walk_blobs()) == ["a/", "c", names[4]]
    assert sorted(item.name for item in container.walk_blobs("a/")) == ["a/1", "a/2", "a/b/"]
    assert [blob.metadata for blob in container.list_blobs("c", include=["metadata"])] == [{"own": "x", "number": "7"}]
    blob = container.get_blob_client("c")
    before = blob.get_blob_properties()
    blob.set_blob_metadata({"other": "y"})
    blob.set_http_headers(ContentSettings(content_type="text/plain", cache_control="no-store"))
    after = blob.get_blob_properties()
    assert after.metadata == {"other": "y"} and after.etag != before.etag
    assert (after.content_settings.content_type, after.content_settings.cache_control) == ("text/plain", "no-store")
    blob.delete_blob()
    with pytest.raises(ResourceNotFoundError) as gone:
        blob.download_blob()
    assert gone.value.error_code == "BlobNotFound"
    container.upload_blob("empty", b"")
    assert container.download_blob("empty").readall() == b""


def test_conditions_keep_the_one_writer_of_several(container):
    blob = container.get_blob_client("owner")
    first = blob.upload_blob(b"", metadata={"ownerid": "a"})
    other = {"etag": '"0x1"', "match_condition": MatchConditions.IfNotModified}
    with pytest.raises(ResourceModifiedError) as lost:
        blob.upload_blob(b"", overwrite=True, **other)
    assert lost.value.error_code == "ConditionNotMet"
    with pytest.raises(ResourceModifiedError):
        blob.set_blob_metadata({"ownerid": "b"}, **other)
    own = {"etag": first["etag"], "match_condition": MatchConditions.IfNotModified}

    def take(owner):
        try:
            return blob.set_blob_metadata({"ownerid": owner}, **own)
        except ResourceModifiedError:
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        won = [result for result in pool.map(take, "abcdefgh") if result]
    assert len(won) == 1


def test_blocks_are_committed_in_the_order_of_the_list(container):
    blob = container.get_blob_client("blocks")
    for name in ("a", "b", "c", "unused"):
        blob.stage_block(f"{name:>6}", name.encode() * 1000)
    with pytest.raises(HttpResponseError) as wrong:
        blob.stage_block("longer-id", b"x")
    assert wrong.value.error_code == "InvalidBlobOrBlock"
    with pytest.raises(HttpResponseError) as wrong:
        blob.commit_block_list([BlobBlock("     x")])
    assert wrong.value.error_code == "InvalidBlockList"
    order = [BlobBlock(f"{name:>6}") for name in ("c", "a", "b", "a")]
    blob.commit_block_list(order)
    assert blob.download_blob().readall() == b"".join(name * 1000 for name in (b"c", b"a", b"b", b"a"))
    assert [len(blocks) for blocks in blob.get_block_list("all")] == [4, 0]
    blob.stage_block("     d", b"d")
    blob.commit_block_list([BlobBlock("     b"), BlobBlock("     d")])
    assert blob.download_blob().readall() == b"b" * 1000 + b"d"
    # A body that is not what its header says leaves the blob as it was.
    with pytest.raises(HttpResponseError) as wrong:
        blob.upload_blob(b"other", overwrite=True, headers={"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert wrong.value.error_code == "Md5Mismatch"
    blob.upload_blob(b"whole", overwrite=True, validate_content=True)
    assert blob.download_blob().readall() == b"whole"


def test_every_kind_of_signature_of_the_sdk_opens_its_part(hub, container):
    connection = hub.connection["blobs"]
    account, key, name = connection["account"], connection["key"], container.container_name
    container.upload_blob("dir/x y.txt", b"content")

    def client(sas, blob="dir/x y.txt"):
        endpoint = connection["endpoint"]
        service = BlobServiceClient(endpoint, credential=sas, connection_verify=hub.ca_file, retry_total=0)
        return service.get_blob_client(name, blob) if blob else service.get_container_client(name)

    own = generate_blob_sas(account, name, "dir/x y.txt", account_key=key, permission="r", expiry=soon())
    assert client(own).download_blob().readall() == b"content"
    with pytest.raises(HttpResponseError):
        client(own, "other").download_blob()
    whole = generate_container_sas(
        account, name, account_key=key, permission=ContainerSasPermissions(read=True, list=True), expiry=soon(), start=soon(-10)
    )
    assert [blob.name for blob in client(whole, None).list_blobs()] == ["dir/x y.txt"]
    with pytest.raises(HttpResponseError):
        client(whole).upload_blob(b"x", overwrite=True)
    everything = generate_account_sas(
        account, key, ResourceTypes(container=True, object=True), AccountSasPermissions(read=True, list=True, write=True), soon()
    )
    client(everything).upload_blob(b"new", overwrite=True)
    late = generate_blob_sas(account, name, "dir/x y.txt", account_key=key, permission="r", expiry=soon(-1))
    with pytest.raises(ClientAuthenticationError) as expired:
        client(late).download_blob()
    assert "expired" in expired.value.message
    creates = generate_blob_sas(account, name, "dir/x y.txt", account_key=key, permission="c", expiry=soon())
    with pytest.raises(HttpResponseError):
        client(creates).upload_blob(b"over", overwrite=True)


def test_a_wrong_key_opens_nothing(hub):
    connection = hub.connection["blobs"]
    wrong = connection["connectionString"].replace(connection["key"], "A" * 86 + "==")
    with BlobServiceClient.from_connection_string(wrong, connection_verify=hub.ca_file, retry_total=0) as service:
        with pytest.raises(ClientAuthenticationError):
            list(service.list_containers())
    with blobs_of(hub) as service:
        assert connection["uploads"] in [item.name for item in service.list_containers()]
        with pytest.raises(HttpResponseError) as refused:
            service.create_container("Bad_Name")
        assert refused.value.error_code == "InvalidResourceName"
        with pytest.raises(ResourceNotFoundError) as gone:
            service.get_container_client("not-there").get_container_properties()
        assert gone.value.error_code == "ContainerNotFound"


# Notifications


def notification_receiver(hub, prefetch=10):
    """A receiver that settles nothing by itself: uamqp's default accepts each message before the program sees it."""
    key = fields(hub.connection["service"])
    auth = iothub_amqp_client.IoTHubAmqpClientSharedAccessKeyAuth(
        hub.host, key["SharedAccessKeyName"], key["SharedAccessKey"]
    ).amqp_client._auth
    address = f"amqps://{hub.host}/messages/serviceBound/filenotifications"
    return uamqp.ReceiveClient(address, auth=auth, prefetch=prefetch, auto_complete=False)


def next_notification(client, timeout):
    """The next notification of any device, or None."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for message in client.receive_message_batch(max_batch_size=1, timeout=1000):
            return message
    return None


def body_of(message):
    return json.loads(b"".join(message.get_data()))


def notifications(hub, device, count, timeout=30):
    """The next `count` notifications about the device, as (body, properties); each is accepted."""
    client = notification_receiver(hub)
    found, deadline = [], time.monotonic() + timeout
    try:
        while len(found) < count:
            assert time.monotonic() < deadline, found
            message = next_notification(client, 1)
            if message:
                if body_of(message)["deviceId"] == device.device_id:
                    found.append((body_of(message), message.properties))
                assert message.accept()
        client.do_work()
    finally:
        client.close()
    return found


def upload(hub, device, name, content):
    info = begin(hub, device, name).json()
    with upload_client(hub, info) as blob:
        blob.upload_blob(content)
    report = {"correlationId": info["correlationId"], "isSuccess": True, "statusCode": 200}
    assert device_call(hub, device, "files/notifications", report).status_code == 204
    return info


def test_a_back_end_hears_of_an_uploaded_file_once_it_has_accepted(hub):
    device = hub.create()
    info = upload(hub, device, "a b.txt", b"12345")
    ((body, properties),) = notifications(hub, device, 1)
    assert properties.content_type == b"application/vnd.microsoft.iothub.filenotification.json"
    assert (body["blobName"], body["blobSizeInBytes"]) == (f"{device.device_id}/a b.txt", 5)
    assert body["blobUri"] == f"https://{hub.host}/{info['containerName']}/{device.device_id}/a%20b.txt"
    assert body["correlationId"] == info["correlationId"]
    assert datetime.strptime(body["lastUpdatedTime"], "%Y-%m-%dT%H:%M:%S+00:00") and body["enqueuedTimeUtc"].endswith("Z")
    # What was accepted does not come again, and a failed upload is no file.
    failed = begin(hub, device, "failed.txt").json()
    report = {"correlationId": failed["correlationId"], "isSuccess": False}
    assert device_call(hub, device, "files/notifications", report).status_code == 204
    upload(hub, device, "second.txt", b"x")
    assert [body["blobName"] for body, _ in notifications(hub, device, 1)] == [f"{device.device_id}/second.txt"]


def test_of_two_receivers_one_has_a_notification_and_the_other_gets_it_when_it_is_given_back():
    with harness.Hub([]) as running:
        hub = HubUnderTest(running)
        device = hub.create()
        first, second = notification_receiver(hub, prefetch=1), notification_receiver(hub, prefetch=5)
        try:
            assert next_notification(first, 2) is None  # it has its link, and credit
            upload(hub, device, "one.txt", b"1")
            one = next_notification(first, 20)
            assert body_of(one)["blobName"] == f"{device.device_id}/one.txt"
            assert next_notification(second, 3) is None, "the first one has it"
            upload(hub, device, "two.txt", b"2")
            two = next_notification(second, 20)
            assert body_of(two)["blobName"] == f"{device.device_id}/two.txt", "the first one has no credit left"
            assert two.accept()
            assert next_notification(second, 2) is None
            # Given back, it comes again.
            second.close()
            assert one.release()
            again = next_notification(first, 20)
            assert body_of(again)["blobName"] == f"{device.device_id}/one.txt"
            # And to another receiver, when the first one ends without a word about it.
            first.close()
            second = notification_receiver(hub)
            last = next_notification(second, 20)
            assert body_of(last)["blobName"] == f"{device.device_id}/one.txt"
            assert last.accept()
            assert next_notification(second, 3) is None
        finally:
            first.close()
            second.close()


class Webhook(http.server.ThreadingHTTPServer):
    """Refuses the first `refused` requests, then keeps what it gets."""

    def __init__(self, refused):
        self.refused, self.attempts, self.bodies = refused, 0, []
        webhook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                webhook.attempts += 1
                if webhook.attempts > webhook.refused:
                    webhook.bodies.append(body)
                self.send_response(200 if webhook.attempts > webhook.refused else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def test_the_webhook_gets_each_file_also_after_it_has_failed_and_beside_receivers():
    webhook = Webhook(refused=2)
    url = f"http://127.0.0.1:{webhook.server_port}/files?from=hub"
    try:
        with harness.Hub(["--set", f"upload.webhook={url}"]) as running:
            hub = HubUnderTest(running)
            device = hub.create()
            info = upload(hub, device, "x.txt", b"123")
            (body,) = until(lambda: webhook.bodies, "the webhook's notification")
            assert (body["correlationId"], body["blobSizeInBytes"]) == (info["correlationId"], 3)
            assert webhook.attempts == 3
            assert [one for one, _ in notifications(hub, device, 1)] == [body]
    finally:
        webhook.shutdown()


def test_without_storage_a_device_is_told_so():
    with harness.Hub(["--set", "upload.storage=none", "--set", "blob.enabled=false"]) as running:
        hub = HubUnderTest(running)
        assert hub.connection["blobs"] is None
        answer = begin(hub, hub.create())
        assert (answer.status_code, answer.json()["errorCode"]) == (400, 400022)
        assert "no storage is configured" in answer.json()["Message"]


# Checkpoints of event processors


def test_two_event_processors_share_partitions_and_go_on_from_their_checkpoints(hub, container):
    connection = hub.connection["blobs"]
    device = hub.create()
    # A group of its own, and no event from before: what other tests have left costs a checkpoint each, and their readers take links.
    hub.running.add_consumer_group("processors")
    begun = datetime.now(timezone.utc)

    def store():
        return BlobCheckpointStore.from_connection_string(
            connection["connectionString"], container.container_name, connection_verify=hub.ca_file
        )

    class Processor(threading.Thread):
        def __init__(self):
            super().__init__(daemon=True)
            self.client = hub.consumer(
                "processors", checkpoint_store=store(), load_balancing_interval=1, partition_ownership_expiration_interval=6, retry_total=3
            )
            self.partitions, self.texts = set(), []
            self.start()

        def run(self):
            self.client.receive(self.on_event, on_partition_initialize=self.on_own, on_partition_close=self.on_lose, starting_position=begun)

        def on_own(self, context):
            self.partitions.add(context.partition_id)

        def on_lose(self, context, _):
            self.partitions.discard(context.partition_id)

        def on_event(self, context, event):
            if sender(event) == device.device_id:
                self.texts.append(event.body_as_str())
            context.update_checkpoint(event)

        def stop(self):
            """Closes the client and waits for its threads: `close` alone lets a receive that is under way hand over further events."""
            self.client.close()
            self.join(60)
            assert not self.is_alive(), "the processor does not end"

    def send(texts):
        with connected(hub.client(device)) as client:
            for one in texts:
                client.send_message(one)

    partitions = set(hub.partition_ids())
    first, second = Processor(), Processor()
    try:
        until(lambda: first.partitions and second.partitions and first.partitions ^ second.partitions == partitions, "shared partitions")
        send(["a", "b"])
        until(lambda: set(first.texts + second.texts) == {"a", "b"}, "the first messages")
    finally:
        first.stop()
        second.stop()
    send(["c"])
    third = Processor()
    try:
        until(lambda: "c" in third.texts, "the message after the checkpoint")
        assert third.texts == ["c"]
    finally:
        third.stop()
