"""One pod of a node, as the kubelet runs it: volumes, init containers, containers with probes and restarts, and the stop.

What always holds: the pod's status at the API server follows what its processes do; a pod that is deleted is gone there only when its processes are
gone here; a pod that belongs to a lost node says nothing.
Rules of the kubelet that are kept: a container that ends is started again at once, then after 10 s, 20 s and so on to 300 s; a start-up probe holds
the others back; readiness goes on while a pod stops; the grace period includes preStop; the last message of a container that failed is the end of its
log. Not here: exec probes, sidecars, limits, and kinds of volumes that the chart has not (an error says so).
"""
import base64
import datetime
import json
import signal
import subprocess
import threading
import time

from . import containers
from .containers import Missing, Sandbox
from .control import ApiError

FIRST_PAUSE, LONGEST_PAUSE = 10, 300
# The kubelet doubles this up to two minutes; shorter, for the tests' sake.
MOUNT_PAUSES = (0.5, 1, 2, 4, 8)


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    """What the status says of one container."""

    def __init__(self, spec, restarts):
        self.spec, self.restarts, self.process = spec, restarts, None
        self.ready = self.started = False
        self.waiting, self.message, self.since, self.ended, self.last = "PodInitializing", "", None, None, None

    def state(self):
        if self.process and self.process.poll() is None:
            return {"running": {"startedAt": self.since}}
        if self.ended and not self.waiting:
            return {"terminated": self.ended}
        return {"waiting": {"reason": self.waiting or "ContainerCreating", **({"message": self.message} if self.message else {})}}

    def status(self, init):
        return {
            "name": self.spec["name"], "image": self.spec["image"], "imageID": self.spec["image"], "restartCount": self.restarts,
            "ready": bool(self.ended and self.ended["exitCode"] == 0) if init else self.ready, "started": self.started,
            "state": self.state(), "lastState": {"terminated": self.last} if self.last else {},
        }


class Pod:
    def __init__(self, agent, node, manifest):
        self.agent, self.node, self.manifest = agent, node, manifest
        meta = manifest["metadata"]
        self.namespace, self.name, self.uid, self.spec = meta["namespace"], meta["name"], meta["uid"], manifest["spec"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.folder = agent.folder / "pods" / self.uid
        self.ip = agent.address()
        self.sandbox = Sandbox(agent.network, self.spec, self.ip, self.folder)
        before = {one["name"]: one["restartCount"] + 1 for one in manifest.get("status", {}).get("containerStatuses", [])}
        self.init = [Container(one, 0) for one in self.spec.get("initContainers", [])]
        self.containers = [Container(one, before.get(one["name"], 0)) for one in self.spec["containers"]]
        self.lock, self.published, self.said, self.since = threading.Lock(), None, set(), {}
        self.stopping, self.dead, self.forced = threading.Event(), threading.Event(), False
        self.volumes, self.initialized, self.started_at, self.sandboxed, self.attempt = {}, not self.init, now(), False, 0
        threading.Thread(target=self.live, daemon=True).start()

    # What the API server hears ----------------------------------------------------------------------------------------------------------
    def phase(self):
        if self.init and not self.initialized:
            failed = [one for one in self.init if one.ended and one.ended["exitCode"] != 0 and not one.waiting]
            return "Failed" if failed and self.spec.get("restartPolicy") == "Never" else "Pending"
        ended = [one.ended for one in self.containers if one.ended and not one.waiting and not (one.process and one.process.poll() is None)]
        over = self.spec.get("restartPolicy", "Always") == "Never" or self.stopping.is_set()
        if len(ended) == len(self.containers) and (over or (self.spec.get("restartPolicy") == "OnFailure" and all(one["exitCode"] == 0 for one in ended))):
            return "Succeeded" if all(one["exitCode"] == 0 for one in ended) else "Failed"
        return "Running" if any(one.process or one.ended for one in self.containers) else "Pending"

    def condition(self, name, true, reason=""):
        value = "True" if true else "False"
        if self.since.get(name, ("", ""))[0] != value:
            self.since[name] = (value, now())
        return {"type": name, "status": value, "lastTransitionTime": self.since[name][1], **({"reason": reason} if reason and not true else {})}

    def publish(self):
        with self.lock:
            phase = self.phase()
            ready = all(one.ready for one in self.containers)
            done = "PodCompleted" if phase == "Succeeded" else "ContainersNotReady"
            status = {
                "phase": phase, "hostIP": self.node.address, "hostIPs": [{"ip": self.node.address}], "startTime": self.started_at,
                "conditions": [self.condition("PodReadyToStartContainers", self.sandboxed), self.condition("Initialized", self.initialized, "ContainersNotInitialized"),
                               self.condition("Ready", ready, done), self.condition("ContainersReady", ready, done)],
                "containerStatuses": [one.status(False) for one in self.containers],
            }
            if self.init:
                status["initContainerStatuses"] = [one.status(True) for one in self.init]
            if self.sandboxed:
                status |= {"podIP": self.ip, "podIPs": [{"ip": self.ip}, {"$patch": "replace"}]}
            text = json.dumps(status)
            if self.dead.is_set() or text == self.published:
                return
            try:
                self.agent.api.patch(f"{self.path}/status", {"metadata": {"uid": self.uid}, "status": status})
                self.published = text
            except ApiError as error:
                # It is gone, or another pod has its name by now: the API server then refuses the uid.
                is_gone = error.status in (404, 409) or (error.status == 422 and "metadata.uid" in error.message)
                if not is_gone:
                    self.agent.faults.append(f"status of {self.name}: {error}")
            except OSError:
                # The sync of the agent repeats it.
                pass

    def event(self, kind, reason, message):
        if (reason, message) in self.said:
            return
        self.said.add((reason, message))
        self.agent.event(self.manifest, kind, reason, message, self.node.name)

    # What a container gets --------------------------------------------------------------------------------------------------------------
    def data(self, kind, name):
        found = self.agent.api.find(f"/api/v1/namespaces/{self.namespace}/{'secrets' if kind == 'Secret' else 'configmaps'}/{name}")
        if found is None:
            return None
        plain = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
        if kind == "Secret":
            return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        return plain | {key: value.encode() for key, value in (found.get("data") or {}).items()}

    def field(self, path):
        return containers.field_of(self.manifest["metadata"], path, {
            "status.podIP": self.ip, "status.hostIP": self.node.address, "spec.nodeName": self.node.name, "spec.serviceAccountName": self.spec.get("serviceAccountName", "default")})

    def token(self, source):
        asked = {"spec": {"audiences": [source["audience"]] if "audience" in source else [], "expirationSeconds": source.get("expirationSeconds", 3600),
                          "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": self.name, "uid": self.uid}}}
        account = self.spec.get("serviceAccountName", "default")
        return self.agent.api.post(f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token", asked)["status"]["token"].encode()

    def value(self, entry):
        source = entry.get("valueFrom")
        if not source:
            return entry.get("value", "")
        if "fieldRef" in source:
            return self.field(source["fieldRef"]["fieldPath"])
        for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if key in source:
                files = containers.picked(source[key] | {"items": [{"key": source[key]["key"], "path": "it"}]}, kind, source[key]["name"], self.data, 0)
                return files["it"][0].decode() if files else None
        raise Missing(f"variables of {list(source)} are not known to the test's agent")

    def environment(self, container):
        made = containers.environment(container, self.value)
        return {"HOSTNAME": self.name, **made}

    def volume(self, volume):
        folder = self.folder / "volumes" / volume["name"]
        if "emptyDir" in volume:
            containers.empty(folder, volume["emptyDir"], self.sandbox.volume_group)
            return folder
        if "persistentVolumeClaim" in volume:
            return self.agent.storage.mount(self.namespace, volume["persistentVolumeClaim"]["claimName"], self.sandbox.volume_group)
        files = containers.content(volume, self.data, self.field, self.token)
        if files is None:
            raise Missing(f"kubernetes.io/{[key for key in volume if key != 'name'][0]}: no driver is registered")
        containers.fill(folder, files, self.sandbox.volume_group)
        return folder

    def mount(self):
        """Waits for what the volumes name, and says what is missing. False: the pod is to stop."""
        tries = 0
        while not self.stopping.is_set():
            try:
                for volume in self.spec.get("volumes", []):
                    self.volumes[volume["name"]] = self.volume(volume)
                return True
            except Missing as error:
                self.event("Warning", "FailedMount", f"MountVolume.SetUp failed for volume \"{volume['name']}\" : {error}")
            except (ApiError, OSError) as error:
                self.event("Warning", "FailedMount", f"MountVolume.SetUp failed for volume \"{volume['name']}\" : {error}")
            self.stopping.wait(MOUNT_PAUSES[min(tries, len(MOUNT_PAUSES) - 1)])
            tries += 1
        return False

    def refresh(self, name):
        """A Secret or ConfigMap that has changed reaches the running pod."""
        volumes = self.spec.get("volumes", [])
        if len(self.volumes) == len(volumes) and not self.stopping.is_set():
            for volume in volumes:
                if not {"secret", "configMap", "projected"}.isdisjoint(volume) and f'"{name}"' in json.dumps(volume):
                    try:
                        self.volume(volume)
                    except (Missing, ApiError, OSError):
                        pass

    # Its life ---------------------------------------------------------------------------------------------------------------------------
    def live(self):
        self.sandbox.connect()
        self.sandboxed = True
        for one in self.containers + self.init:
            one.waiting = "ContainerCreating" if not self.init or one in self.init else "PodInitializing"
        self.publish()
        if self.mount() and self.initialize():
            self.initialized = True
            threads = [threading.Thread(target=self.keep, args=(one, False), daemon=True) for one in self.containers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self.dead.is_set():
            return
        self.publish()
        if not self.stopping.is_set():
            # A Job's pod is over; its object stays until someone deletes it.
            self.sandbox.disconnect()
            self.stopping.wait()
        if not self.dead.is_set():
            self.finish()

    def initialize(self):
        for one in self.init:
            self.keep(one, True)
            if self.stopping.is_set() or not one.ended or one.ended["exitCode"] != 0:
                return False
        return True

    def keep(self, one, init):
        """Runs a container, again and again where the restart policy says so; an init container until it succeeds."""
        policy, pause, log = self.spec.get("restartPolicy", "Always"), 0, self.agent.log(self, one.spec["name"])
        while not self.stopping.is_set():
            if not self.pulled(one):
                return
            try:
                variables = self.environment(one.spec)
            except Missing as error:
                one.waiting, one.message = "CreateContainerConfigError", str(error)
                self.event("Warning", "Failed", f"Error: {error}")
                self.publish()
                self.stopping.wait(2)
                continue
            self.attempt += 1
            command = self.sandbox.command(one.spec, self.attempt, self.agent.files(one.spec["image"]), self.volumes, variables)
            with open(log, "ab") as output:
                begin = output.tell()
                one.process = subprocess.Popen(command, env=variables, stdout=output, stderr=output, start_new_session=True)
            one.since, one.waiting, one.message, begun = now(), None, "", time.monotonic()
            if init or "startupProbe" not in one.spec:
                one.started = True
            if not init and "readinessProbe" not in one.spec:
                one.ready = True
            self.publish()
            if not init:
                threading.Thread(target=self.probe, args=(one, one.process), daemon=True).start()
            self.watch(one, init)
            one.ready = one.started = False
            self.end(one, log, begin)
            if self.dead.is_set() or self.stopping.is_set() or policy == "Never" or (one.ended["exitCode"] == 0 and (init or policy == "OnFailure")):
                self.publish()
                return
            if time.monotonic() - begun > 600:
                pause = 0
            one.last, one.restarts = one.ended, one.restarts + 1
            if pause:
                one.waiting, one.message = "CrashLoopBackOff", f"back-off {pause}s restarting failed container={one.spec['name']} pod={self.name}"
                self.event("Warning", "BackOff", f"Back-off restarting failed container {one.spec['name']} in pod {self.name}")
                self.publish()
                self.stopping.wait(pause)
            pause = min(max(FIRST_PAUSE, pause * 2), LONGEST_PAUSE)
        self.publish()

    def pulled(self, one):
        """Whether the image is there; waits until the pod goes, if it is not."""
        if self.agent.files(one.spec["image"]):
            return True
        one.waiting, one.message = "ImagePullBackOff", f"Back-off pulling image \"{one.spec['image']}\": not found"
        self.event("Warning", "Failed", f"Failed to pull image \"{one.spec['image']}\": not found")
        self.publish()
        self.stopping.wait()
        return False

    def watch(self, one, init):
        """Until the process has ended: of itself, or stopped with the pod within its grace period."""
        while one.process.poll() is None:
            if self.stopping.wait(0.1):
                if self.dead.is_set():
                    one.process.kill()
                else:
                    self.stop(one, 0 if init else self.pre_stop(one))
        one.process.wait()

    def pre_stop(self, one):
        hook = one.spec.get("lifecycle", {}).get("preStop")
        return hook["sleep"]["seconds"] if hook else 0

    def stop(self, one, wait):
        """preStop, SIGTERM, and SIGKILL at the end of the grace period, two seconds after SIGTERM at least."""
        grace = 0 if self.forced else self.manifest["metadata"].get("deletionGracePeriodSeconds", self.spec.get("terminationGracePeriodSeconds", 30))
        deadline = time.monotonic() + grace
        self.event("Normal", "Killing", f"Stopping container {one.spec['name']}")
        if not self.forced:
            self.pause(one, min(wait, grace), deadline)
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
            self.pause(one, max(2, deadline - time.monotonic()), deadline)
        if one.process.poll() is None:
            if not self.dead.is_set() and not self.forced:
                self.agent.faults.append(f"{self.name}: {one.spec['name']} did not stop within {grace} s")
            one.process.kill()
            one.process.wait()

    def pause(self, one, seconds, deadline):
        """Waits for the process's end; ends early when the pod is forced away, or its node dies."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and one.process.poll() is None and not self.dead.is_set() and not (self.forced and time.monotonic() > deadline):
            time.sleep(0.05)

    def end(self, one, log, begin):
        code = one.process.returncode
        code = 128 - code if code < 0 else code
        one.ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "startedAt": one.since, "finishedAt": now()}
        if code != 0 and one.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            with open(log, "rb") as text:
                text.seek(begin)
                one.ended["message"] = text.read()[-2048:].decode(errors="replace")

    # Probes -----------------------------------------------------------------------------------------------------------------------------
    def probe(self, one, process):
        due, failures = {}, {}
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            if name in one.spec:
                due[name], failures[name] = time.monotonic() + one.spec[name].get("initialDelaySeconds", 0), 0
        while due and process.poll() is None and not self.dead.is_set():
            for name in list(due):
                held = name != "startupProbe" and not one.started
                if name not in due or held or time.monotonic() < due[name]:
                    continue
                probe = one.spec[name]
                due[name] = time.monotonic() + probe.get("periodSeconds", 10)
                good, why = self.sandbox.probe(probe, one.spec)
                if process.poll() is not None:
                    return
                failures[name] = 0 if good else failures[name] + 1
                over = failures[name] >= probe.get("failureThreshold", 3)
                if not good and not self.stopping.is_set():
                    self.event("Warning", "Unhealthy", f"{name.removesuffix('Probe').capitalize()} probe failed: {why}")
                if name == "startupProbe" and good:
                    one.started = True
                    del due[name]
                    # The others begin at once.
                    due.update({other: 0 for other in due})
                elif name == "readinessProbe" and (good or over):
                    one.ready = good
                elif name in ("startupProbe", "livenessProbe") and over and not self.stopping.is_set():
                    self.event("Normal", "Killing", f"Container {one.spec['name']} failed {name.removesuffix('Probe').lower()} probe, will be restarted")
                    self.stop(one, 0)
                    return
                self.publish()
            time.sleep(0.05)

    # Its end ----------------------------------------------------------------------------------------------------------------------------
    def delete(self, manifest):
        """The API server has a time for its end."""
        self.manifest = manifest
        if manifest["metadata"].get("deletionGracePeriodSeconds") == 0:
            self.forced = True
        self.stopping.set()

    def force(self):
        """The object is gone already."""
        self.forced = True
        self.stopping.set()

    def finish(self):
        self.publish()
        self.sandbox.disconnect()
        for _ in range(50):
            try:
                self.agent.api.delete(self.path, gracePeriodSeconds=0, preconditions={"uid": self.uid})
                break
            except ApiError as error:
                if error.status in (404, 409):
                    break
            except OSError:
                pass
            time.sleep(0.2)
        self.agent.gone(self)

    def crash(self):
        """Its node has lost power: no signal, no word."""
        self.dead.set()
        self.stopping.set()
        for one in self.init + self.containers:
            if one.process and one.process.poll() is None:
                one.process.kill()
                one.process.wait()
        self.sandbox.disconnect()

    def execute(self, *command, container=0, seconds=120):
        one = self.containers[container]
        return self.sandbox.execute(one.process.pid, list(command), self.environment(one.spec), seconds)
