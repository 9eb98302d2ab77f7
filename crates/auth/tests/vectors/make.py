"""Writes python.json: tokens made by the Python SDKs, their clock held still. See README.md."""

import base64
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

EXPIRY = 1_900_000_000
time.time = lambda: EXPIRY - 3600

from azure.eventhub._client_base import EventHubSharedKeyCredential  # noqa: E402
from azure.iot.device.common.auth.sastoken import RenewableSasToken  # noqa: E402
from azure.iot.device.common.auth.signing_mechanism import SymmetricKeySigningMechanism  # noqa: E402
from azure.iot.device.iothub.abstract_clients import _form_sas_uri  # noqa: E402
from azure.iot.hub.sastoken import SasToken  # noqa: E402

KEY = base64.b64encode(bytes(range(32))).decode()
HOST = "hub1.example.com"
ODD = "a%41b+c:d(e)!f'g*h,i;j=k@l$m.n_o#p?q"


def vector(sdk, token, path, form="decoded"):
    return {"sdk": sdk, "version": version(sdk), "token": str(token), "path": path, "form": form}


def device(name, module=None):
    token = RenewableSasToken(_form_sas_uri(HOST, name, module), SymmetricKeySigningMechanism(KEY))
    return vector("azure-iot-device", token, ["devices", name] + (["modules", module] if module else []))


def events(uri, path):
    token = EventHubSharedKeyCredential("service", KEY).get_token(uri).token
    return vector("azure-eventhub", token if isinstance(token, str) else token.decode(), path, "text")


vectors = [
    device("dev-1"),
    device("Dev.UPPER_1"),
    device(ODD),
    device("dev-1", "mod1"),
    device(ODD, "$edgeHub"),
    vector("azure-iot-hub", SasToken(HOST, KEY, "iothubowner"), []),
    vector("azure-iot-hub", SasToken(f"https://{HOST}", KEY, "service"), []),
    vector("azure-iot-hub", SasToken(f"{HOST}/devices/dev-1", KEY), ["devices", "dev-1"]),
    events(f"sb://{HOST}/hub1", ["hub1", "$management"]),
    events(f"sb://{HOST}/hub1/consumergroups/$Default", ["hub1", "ConsumerGroups", "$Default", "Partitions", "0"]),
]
text = json.dumps({"key": KEY, "host": HOST, "expiry": EXPIRY, "vectors": vectors}, indent=1)
Path(__file__).with_name("python.json").write_text(text + "\n")
print(len(vectors), "vectors", file=sys.stderr)
