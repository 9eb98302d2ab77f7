"""File upload into a bucket: azure-storage-blob writes to the hub, boto3 reads from S3, which is moto with signatures checked."""

import hashlib
import os
import subprocess

import harness
import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobServiceClient, ContentSettings
from hub_under_test import HubUnderTest, connected
from s3_service import BUCKET, S3Service
from test_upload import begin, device_call, sas_url, upload_client


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with S3Service(tmp_path_factory.mktemp("s3")) as running:
        yield running


def flags(settings):
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def s3_hub(service):
    with harness.Hub(flags(service.settings())) as running:
        yield HubUnderTest(running)


def test_a_file_in_blocks_is_an_object_that_back_ends_read_without_the_hub(s3_hub, service):
    device = s3_hub.create()
    content = os.urandom(1 << 20) * 12 + b"the end"
    with connected(s3_hub.client(device)) as client:
        info = client.get_storage_info_for_blob("logs/today ü+1.bin")
        blocks = {"max_block_size": 1 << 20, "max_single_put_size": 1 << 20}
        with upload_client(s3_hub, info, **blocks) as blob:
            settings = ContentSettings(content_type="application/x-log", cache_control="no-store")
            blob.upload_blob(content, overwrite=True, max_concurrency=4, content_settings=settings, metadata={"kind": "log"})
            assert hashlib.sha256(blob.download_blob(max_concurrency=4).readall()).digest() == hashlib.sha256(content).digest()
            assert blob.download_blob(offset=(1 << 20) - 5, length=10).readall() == content[(1 << 20) - 5 : (1 << 20) + 5]
            properties = blob.get_blob_properties()
        client.notify_blob_upload_status(info["correlationId"], True, 200, "done")
    assert (properties.size, properties.metadata) == (len(content), {"kind": "log"})
    assert properties.content_settings.content_type == "application/x-log"
    key = f"hub-1/{info['containerName']}/{device.device_id}/logs/today ü+1.bin"
    found = service.s3.get_object(Bucket=BUCKET, Key=key)
    assert found["Body"].read() == content
    assert (found["ContentType"], found["CacheControl"], found["Metadata"]) == ("application/x-log", "no-store", {"kind": "log"})
    # In parts: S3 says so in the ETag.
    assert found["ETag"].strip('"').endswith("-3")
    assert "Uploads" not in service.s3.list_multipart_uploads(Bucket=BUCKET)


def test_what_a_back_end_puts_into_the_bucket_is_listed_read_and_removed(s3_hub, service):
    connection = s3_hub.connection["blobs"]
    name = "from-elsewhere/a/b.txt"
    service.s3.put_object(Bucket=BUCKET, Key=f"hub-1/device-uploads/{name}", Body=b"hello", ContentType="text/plain")
    with BlobServiceClient.from_connection_string(
        connection["connectionString"], connection_verify=s3_hub.ca_file, retry_total=0
    ) as blobs:
        container = blobs.get_container_client(connection["uploads"])
        assert [blob.name for blob in container.list_blobs(name_starts_with="from-elsewhere/")] == [name]
        assert [blob.name for blob in container.walk_blobs("from-elsewhere/")] == ["from-elsewhere/a/"]
        blob = container.get_blob_client(name)
        assert blob.download_blob().readall() == b"hello"
        blob.delete_blob()
        with pytest.raises(ResourceNotFoundError):
            blob.get_blob_properties()
        with pytest.raises(HttpResponseError) as refused:
            container.delete_container()
        assert refused.value.status_code == 501
    assert "Contents" not in service.s3.list_objects_v2(Bucket=BUCKET, Prefix="hub-1/device-uploads/from-elsewhere/")


def test_a_report_without_a_file_is_400020(s3_hub):
    device = s3_hub.create()
    info = begin(s3_hub, device).json()
    report = {"correlationId": info["correlationId"], "isSuccess": True, "statusCode": 200, "statusDescription": ""}
    answer = device_call(s3_hub, device, "files/notifications", report)
    assert (answer.status_code, answer.json()["errorCode"]) == (400, 400020)


def test_the_check_of_the_configuration_names_what_is_wrong_with_the_bucket(service, tmp_path):
    def check(*more, **changed):
        settings = {**service.settings(), "blob.enabled": "true", "hub.host": "hub.example.com", **changed}
        command = [str(harness.binary()), "config", "check", *more, *flags(settings)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert service.secret not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    code, said = check()
    assert code == 0, said
    code, said = check("--print")
    assert code == 0 and service.secret not in said
    wrong = tmp_path / "wrong"
    wrong.write_text(f"{service.key_id}\nanother\n")
    for changed, expected in [
        ({"s3.credentials_file": str(wrong)}, "SignatureDoesNotMatch"),
        ({"s3.bucket": "nothing-here"}, "NoSuchBucket"),
        ({"s3.endpoint": "http://127.0.0.1:1"}, "cannot connect"),
        ({"s3.credentials_file": str(tmp_path / "none")}, "cannot read"),
    ]:
        code, said = check(**changed)
        assert code != 0 and expected in said, said
        assert check("--offline", **changed)[0] == 0


def test_every_node_serves_the_file(service, monkeypatch):
    monkeypatch.setattr(harness, "NODES", 3)
    with harness.Hub(flags({**service.settings(), "s3.prefix": "hub-3", "blob.enabled": "true"})) as running:
        hub = HubUnderTest(running)
        device = hub.create()
        content = os.urandom(1 << 20) * 6
        with connected(hub.client(device)) as client:
            info = client.get_storage_info_for_blob("a.bin")
        with upload_client(hub, info, max_block_size=1 << 20, max_single_put_size=1 << 20) as blob:
            blob.upload_blob(content, overwrite=True, max_concurrency=4)
        etags = set()
        for node in hub.connection["nodes"]:
            url = sas_url({**info, "hostName": node["address"]})
            with BlobClient.from_blob_url(url, connection_verify=hub.ca_file, retry_total=0) as blob:
                assert blob.download_blob().readall() == content
                etags.add(blob.get_blob_properties().etag)
        assert len(etags) == 1
        # Through the load balancer: a small file has no blocks, so that any node takes it.
        for number in range(6):
            small = {**info, "hostName": hub.host, "blobName": info["blobName"]}
            with BlobClient.from_blob_url(sas_url(small), connection_verify=hub.ca_file, retry_total=0) as blob:
                blob.upload_blob(f"version {number}".encode(), overwrite=True)
            with BlobClient.from_blob_url(sas_url(small), connection_verify=hub.ca_file, retry_total=0) as blob:
                assert blob.download_blob().readall() == f"version {number}".encode()
