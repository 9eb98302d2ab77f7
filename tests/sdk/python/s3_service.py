"""moto's S3 as a process: a bucket, and the keys of a user whose signatures are checked."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

BUCKET = "fleet"
# The calls that make the user and the bucket; every later one needs a signature of that user.
UNSIGNED_CALLS = 4
RULE = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


class S3Service:
    def __init__(self, folder: Path):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.credentials_file = folder / "s3"

    def __enter__(self):
        environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(UNSIGNED_CALLS)}
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        log = open(self.folder / "moto.log", "wb")
        self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder)
        # Not by a call, since calls are counted.
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, (self.folder / "moto.log").read_text()
                time.sleep(0.05)
        iam = self.client("iam", "any", "any")
        iam.create_user(UserName="hub")
        key = iam.create_access_key(UserName="hub")["AccessKey"]
        document = json.dumps({"Version": "2012-10-17", "Statement": [RULE]})
        iam.put_user_policy(UserName="hub", PolicyName="files", PolicyDocument=document)
        self.client("s3", "any", "any").create_bucket(Bucket=BUCKET)
        self.key_id, self.secret = key["AccessKeyId"], key["SecretAccessKey"]
        self.credentials_file.write_text(f"{self.key_id}\n{self.secret}\n")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def client(self, service, key_id, secret):
        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=config,
        )

    @property
    def s3(self):
        """As a back end reads the files."""
        return self.client("s3", self.key_id, self.secret)

    def settings(self) -> dict:
        """What the hub has to know."""
        return {
            "upload.storage": "s3",
            "s3.endpoint": self.url,
            "s3.bucket": BUCKET,
            "s3.prefix": "hub-1",
            "s3.part_size": "5MiB",
            "s3.credentials_file": str(self.credentials_file),
        }


__all__ = ["BUCKET", "ClientError", "EndpointConnectionError", "S3Service"]
