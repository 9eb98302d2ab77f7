"""Backups in a bucket of S3, which is moto with signatures checked: by the commands, and by the schedule of three nodes."""

import subprocess
import time

import harness
import pytest
from hub_under_test import HubUnderTest
from s3_service import BUCKET, S3Service


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with S3Service(tmp_path_factory.mktemp("s3")) as running:
        yield running


def settings(service):
    return {"backup.endpoint": service.url, "backup.credentials_file": str(service.credentials_file)}


def flags(values):
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def command(service, *arguments, connection=None, **changed):
    """Exit code and output; no secret is in it."""
    given = [str(harness.binary()), *arguments, *flags({**settings(service), **changed})]
    if connection:
        given += ["--connection-file", str(connection)]
    done = subprocess.run(given, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert service.secret not in said
    return done.returncode, said


def keys(service, prefix):
    found = service.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {entry["Key"][len(prefix) + 1 :] for entry in found}


def test_a_backup_in_a_bucket_is_made_checked_pruned_and_restored(service, tmp_path):
    with harness.Hub() as running:
        hub, file = HubUnderTest(running), running.connection_file
        device = hub.create()
        place = f"s3://{BUCKET}/hubs/one"
        make = lambda: command(service, "backup", "create", "--with-log", "--to", place, connection=file)
        code, said = make()
        assert code == 0, said
        # The lock is gone, and a second one adds what has changed.
        first = keys(service, "hubs/one")
        assert "backup.lock" not in first and "holdfast-backup.json" in first
        hub.create()
        assert make()[0] == 0
        second = keys(service, "hubs/one")
        assert first < second and len(second - first) < len(first)
        code, said = command(service, "backup", "verify", place, "--all")
        assert code == 0 and said.count("is whole") == 2, said

        # Another process writes there; one that has ended without removing its lock counts for ten minutes.
        service.s3.put_object(Bucket=BUCKET, Key="hubs/one/backup.lock", Body=b"another")
        code, said = make()
        assert code != 0 and "another process makes a backup" in said, said
        assert keys(service, "hubs/one") == second | {"backup.lock"}
        service.s3.delete_object(Bucket=BUCKET, Key="hubs/one/backup.lock")

        code, said = command(service, "backup", "prune", place, "--keep", "1")
        assert code == 0 and "1 backups stay" in said, said
        assert keys(service, "hubs/one") < second
        code, said = command(service, "backup", "verify", place, "--all")
        assert code == 0 and said.count("is whole") == 1, said

        # A changed object is named.
        name = next(key for key in keys(service, "hubs/one") if key.startswith("objects/"))
        content = service.s3.get_object(Bucket=BUCKET, Key=f"hubs/one/{name}")["Body"].read()
        service.s3.put_object(Bucket=BUCKET, Key=f"hubs/one/{name}", Body=content[:-1] + bytes([content[-1] ^ 1]))
        code, said = command(service, "backup", "verify", place)
        assert code == 7 and name in said, said
        service.s3.put_object(Bucket=BUCKET, Key=f"hubs/one/{name}", Body=content)

        data = tmp_path / "restored"
        data.mkdir(mode=0o700)
        key = data / "sealing.key"
        key.write_bytes((file.parent / "sealing.key").read_bytes())
        key.chmod(0o600)
        code, said = command(service, "restore", "--from", place, "--data-dir", str(data))
        assert code == 0 and "is restored" in said, said
        assert device.device_id


def test_what_is_wrong_with_a_bucket_is_said(service, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text(f"{service.key_id}\nanother\n")
    for place, changed, expected in [
        (f"s3://{BUCKET}/x", {"backup.credentials_file": str(wrong)}, "SignatureDoesNotMatch"),
        ("s3://nothing-here/x", {}, "NoSuchBucket"),
        (f"s3://{BUCKET}/x", {"backup.endpoint": "http://127.0.0.1:1"}, "cannot connect"),
        (f"s3://{BUCKET}/x", {"backup.credentials_file": str(tmp_path / "none")}, "cannot read"),
        (f"s3://{BUCKET}/../x", {}, "s3://BUCKET/PREFIX"),
        (f"s3://{BUCKET}/empty", {}, "there is no backup"),
    ]:
        code, said = command(service, "backup", "prune", place, "--keep", "1", **changed)
        assert code != 0 and expected in said, said


def test_three_nodes_keep_the_schedule_and_another_leader_does_not_repeat_it(service, monkeypatch):
    monkeypatch.setattr(harness, "NODES", 3)
    place = f"s3://{BUCKET}/hubs/three"
    mine = {**settings(service), "backup.target": place, "backup.schedule": "1h"}
    with harness.Hub(flags(mine)) as running:
        hub = HubUnderTest(running)
        backups = lambda: sorted(key for key in keys(service, "hubs/three") if key.startswith("backups/"))
        until(lambda: len(backups()) == 1 and "backup.lock" not in keys(service, "hubs/three"))
        hub.create()
        # The nodes have looked at the schedule in between.
        time.sleep(12)
        assert len(backups()) == 1, "one node makes it, once"
        code, said = command(service, "backup", "verify", place)
        assert code == 0, said


def until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.2)

