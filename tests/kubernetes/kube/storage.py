"""The provisioner of the test: volumes for claims, as the driver of a cloud's zonal disks makes them, and the mount.

A claim of the class `disks` waits for its pod (WaitForFirstConsumer); then it gets a folder, and a volume that only nodes of the pod's zone may have.
A deleted claim's volume is deleted with its data..
"""
import contextlib
import shutil

from .containers import Missing, own
from .control import ApiError, Informer

DRIVER, CLASS = "disks.holdfast.test", "disks"


class Storage:
    def __init__(self, api, folder):
        self.api, self.folder = api, folder
        folder.mkdir()
        api.post("/apis/storage.k8s.io/v1/csidrivers", {"metadata": {"name": DRIVER}, "spec": {"attachRequired": False}})
        api.post("/apis/storage.k8s.io/v1/storageclasses", {
            "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": DRIVER,
            "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete"})
        self.claims = Informer(api, "/api/v1/persistentvolumeclaims", self.claimed)
        self.volumes = Informer(api, "/api/v1/persistentvolumes", self.released)

    def claimed(self, kind, claim):
        node = claim["metadata"].get("annotations", {}).get("volume.kubernetes.io/selected-node")
        if kind == "DELETED" or claim["spec"].get("volumeName") or claim["spec"].get("storageClassName") != CLASS or not node:
            return
        zone = self.api.get(f"/api/v1/nodes/{node}")["metadata"]["labels"]["topology.kubernetes.io/zone"]
        with contextlib.suppress(ApiError):
            self.make(f"pvc-{claim['metadata']['uid']}", zone, claim)

    def make(self, name, zone, claim):
        """A volume for a claim; 409 if it is there."""
        meta = claim["metadata"]
        (self.folder / name).mkdir(exist_ok=True)
        self.api.post("/api/v1/persistentvolumes", {
            "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": DRIVER}}, "spec": {
                "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]}, "accessModes": claim["spec"]["accessModes"], "storageClassName": CLASS,
                "persistentVolumeReclaimPolicy": "Delete", "csi": {"driver": DRIVER, "volumeHandle": name},
                "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": meta["namespace"], "name": meta["name"], **({"uid": meta["uid"]} if "uid" in meta else {})},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]}]}}}})

    def released(self, kind, volume):
        if kind != "DELETED" and volume.get("status", {}).get("phase") == "Released" and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
            shutil.rmtree(self.folder / volume["metadata"]["name"], ignore_errors=True)
            with contextlib.suppress(ApiError):
                self.api.delete(f"/api/v1/persistentvolumes/{volume['metadata']['name']}")

    def mount(self, namespace, claim, group):
        """The folder of a claim's volume."""
        found = self.api.find(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}")
        if not found or found.get("status", {}).get("phase") != "Bound":
            raise Missing(f"persistentvolumeclaim \"{claim}\" is not bound")
        folder = self.folder / found["spec"]["volumeName"]
        own(folder, group)
        return folder
