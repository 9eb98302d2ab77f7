"""What a container can notice of its pod, without a container runtime: processes in network namespaces, with roots, volumes, variables and users.

A pod is a network namespace, held by a process that sleeps, with an address at a bridge. A container is a process in it: its root is an overlay over
this machine's, with the image's files mounted into it; it is read-only where the manifest says so; its volumes are mounted; it runs as the user, group
and supplementary group of the manifest, without capabilities. Both pods.py (no API server) and cluster.py (a real one) run pods by this.

Not here: cgroups (limits of memory and CPU are not enforced), seccomp, user namespaces, devices, images.
"""
import contextlib
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SCRIPT = pathlib.Path(sys.argv[0]).stem


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(str(part) for part in command)[:300]}: exit code {done.returncode}: {(done.stderr + done.stdout)[-2000:]}")
    return done.stdout


def say(text):
    print(f"{SCRIPT}: {text}", flush=True)


def wait_for(what, condition, seconds=120, pause=0.2):
    """Polls until `condition` is true; returns the seconds that it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if condition():
            return time.monotonic() - begun
        time.sleep(pause)
    raise SystemExit(f"{SCRIPT}: not within {seconds} s: {what}")


def apart(variable):
    """Goes on in network, mount and process namespaces of its own: what it starts ends with it, and no packet leaves."""
    if os.environ.get(variable) == "1":
        # The first process of a namespace has no default handler. The parent's end is one's own, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return
    options = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    child = subprocess.Popen(["unshare", *options, sys.executable, *sys.argv], env=os.environ | {variable: "1"})

    def forward(number, _):
        # unshare ignores it: the script is its only child.
        for pid in pathlib.Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split():
            os.kill(int(pid), number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    sys.exit(child.wait())


class Network:
    """The bridge of the pods, in the namespace of the test."""

    def __init__(self, gateway="10.77.0.1"):
        self.gateway, self.serial, self.lock = gateway, 0, threading.Lock()
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "pods", "type", "bridge")
        run("ip", "addr", "add", f"{gateway}/16", "dev", "pods")
        run("ip", "link", "set", "pods", "up")

    def address(self, address):
        """Another address of this side, such as a Service's."""
        run("ip", "addr", "add", f"{address}/32", "dev", "pods")

    def link(self):
        with self.lock:
            self.serial += 1
            return f"p{self.serial}"


def forward(client, host, port):
    with contextlib.suppress(OSError), client, socket.create_connection((host, port), timeout=5) as server:
        ends = {client: server, server: client}
        for end in ends:
            end.settimeout(None)
        while True:
            for end in select.select(list(ends), [], [])[0]:
                data = end.recv(65536)
                if not data:
                    return
                ends[end].sendall(data)


def proxy(address, port, backends):
    """A port of a Service: each connection goes to the next of `backends()`, which are pairs of address and port. Returns
    the socket that ends it."""
    listener = socket.create_server((address, port), backlog=256)

    def serve():
        turn = 0
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            ready = backends()
            turn += 1
            if ready:
                threading.Thread(target=forward, args=(client, *ready[turn % len(ready)]), daemon=True).start()
            else:
                client.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener


# Volumes ---------------------------------------------------------------------------------------------------------------------------------


class Missing(Exception):
    """A pod names an object that is not there, or not yet. The text is the kubelet's."""


def picked(source, kind, name, lookup, mode):
    """The files of one Secret or ConfigMap: path -> (bytes, mode)."""
    content = lookup(kind, name)
    if content is None:
        if source.get("optional"):
            return {}
        raise Missing(f"{kind.lower() if kind == 'Secret' else 'configmap'} \"{name}\" not found")
    if "items" not in source:
        return {key: (value, mode) for key, value in content.items()}
    files = {}
    for item in source["items"]:
        if item["key"] in content:
            files[item["path"]] = (content[item["key"]], item.get("mode", mode))
        elif not source.get("optional"):
            raise Missing(f"references non-existent {'secret' if kind == 'Secret' else 'config'} key: {item['key']}")
    return files


def content(volume, lookup, field, token):
    """The files of a volume that objects fill, or None for another kind. `lookup(kind, name)` gives an object's data as bytes by key, or None."""
    if "secret" in volume:
        source = volume["secret"]
        return picked(source, "Secret", source["secretName"], lookup, source.get("defaultMode", 0o644))
    if "configMap" in volume:
        source = volume["configMap"]
        return picked(source, "ConfigMap", source["name"], lookup, source.get("defaultMode", 0o644))
    if "projected" not in volume and "downwardAPI" not in volume:
        return None
    whole = volume.get("projected") or {"sources": [{"downwardAPI": volume["downwardAPI"]}], **volume["downwardAPI"]}
    mode, files = whole.get("defaultMode", 0o644), {}
    for source in whole["sources"]:
        for kind, key in (("Secret", "secret"), ("ConfigMap", "configMap")):
            if key in source:
                files |= picked(source[key], kind, source[key]["name"], lookup, mode)
        if "serviceAccountToken" in source:
            files[source["serviceAccountToken"]["path"]] = (token(source["serviceAccountToken"]), mode)
        for item in source.get("downwardAPI", {}).get("items", []):
            files[item["path"]] = (field(item["fieldRef"]["fieldPath"]).encode(), item.get("mode", mode))
    return files


def fill(folder, files, group):
    """Writes a volume's files as the kubelet does: all of them change at once, by a link, and belong to fsGroup. True: something has changed."""
    current = folder / "..data"
    if current.exists():
        before = {path.name: path.read_bytes() for path in current.resolve().iterdir()}
        if before == {name: data for name, (data, _) in files.items()}:
            return False
    old = current.resolve() if current.is_symlink() else None
    version = folder / f"..{time.time_ns()}"
    version.mkdir(parents=True)
    for name, (data, mode) in files.items():
        (version / name).write_bytes(data)
        os.chown(version / name, 0, group)
        # As the kubelet does for fsGroup.
        os.chmod(version / name, mode | 0o440)
    os.chown(version, 0, group)
    os.chmod(version, 0o2755)
    (folder / "..new").symlink_to(version.name)
    os.rename(folder / "..new", current)
    for name in files:
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(f"..data/{name}")
    for link in folder.iterdir():
        if link.is_symlink() and not link.name.startswith("..") and link.name not in files:
            link.unlink()
    if old:
        shutil.rmtree(old)
    own(folder, group)
    return True


def own(folder, group):
    os.chown(folder, 0, group)
    os.chmod(folder, 0o2775)


def empty(folder, source, group):
    """An emptyDir, in memory if its manifest says so."""
    memory = source.get("medium") == "Memory"
    # What lies in memory is lost with the machine, and the folder is not.
    if folder.exists() and (not memory or os.path.ismount(folder)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if memory:
        run("mount", "-t", "tmpfs", "-o", f"size={source.get('sizeLimit', '64Mi').replace('Mi', 'm').replace('Gi', 'g')}", "tmpfs", folder)
    own(folder, group)


# Containers ------------------------------------------------------------------------------------------------------------------------------


def expand(text, variables):
    return re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), text)


def environment(container, value):
    """The variables of a container; `value(entry)` gives the text of one, or None for an optional one that is not there."""
    made = {"PATH": PATH}
    for entry in container.get("env", []):
        text = value(entry)
        if text is not None:
            made[entry["name"]] = expand(text, made)
    return made


def field_of(metadata, path, more=()):
    """A fieldRef: what of a pod's metadata its containers may read."""
    more = dict(more)
    if path in more:
        return more[path]
    found = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path)
    if found:
        return metadata.get(found[1], {}).get(found[2], "")
    return metadata[path.removeprefix("metadata.")]


class Sandbox:
    """A pod's network namespace and the roots of its containers, in `folder`."""

    def __init__(self, network, spec, ip, folder):
        self.network, self.spec, self.ip, self.folder = network, spec, ip, folder
        self.holder = None
        security = spec.get("securityContext", {})
        self.user, self.group = security.get("runAsUser", 0), security.get("runAsGroup", 0)
        self.volume_group = security.get("fsGroup", self.group)

    def connect(self):
        if self.holder:
            return
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own_space = os.readlink("/proc/self/ns/net")
        wait_for("a network namespace", lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != own_space, 10, 0.005)
        end = self.network.link()
        # The same address is the same neighbour, whoever has it.
        neighbour = "02:00:" + ":".join(f"{int(part):02x}" for part in self.ip.split("."))
        run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "address", neighbour, "netns", self.holder.pid)
        run("ip", "link", "set", end, "master", "pods", "up")
        inside = f"ip link set lo up && ip addr add {self.ip}/16 dev eth0 && ip link set eth0 up && ip route add default via {self.network.gateway}"
        run("nsenter", "--target", self.holder.pid, "--net", "sh", "-ec", inside)

    def disconnect(self):
        """Frees the address, and what lies in memory."""
        if self.holder:
            self.holder.kill()
            self.holder.wait()
            self.holder = None
        for volume in self.spec.get("volumes", []):
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                subprocess.run(["umount", "--lazy", self.folder / "volumes" / volume["name"]], capture_output=True)

    def command(self, container, attempt, mounts, volumes, variables):
        """The arguments of the process that makes a container's root, mounts and user, and then becomes the container.

        `mounts` are files of this machine by their path in the container: those of the image, and of the pod."""
        base = self.folder / f"root-{container['name']}-{attempt}"
        for part in ("upper/etc/holdfast", "upper/var/lib/holdfast", "upper/run/holdfast", "work", "root"):
            (base / part).mkdir(parents=True, exist_ok=True)
        root = base / "root"
        steps = [f"mount -t overlay overlay -o lowerdir=/,upperdir={base}/upper,workdir={base}/work {root}"]
        for path in mounts:
            (base / "upper" / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (base / "upper" / path.lstrip("/")).touch()
        for mount in container.get("volumeMounts", []):
            (base / "upper" / mount["mountPath"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        for mount in container.get("volumeMounts", []):
            target = f"{root}{mount['mountPath']}"
            assert "subPath" not in mount
            steps.append(f"mount --bind {volumes[mount['name']]} {target}")
            if mount.get("readOnly"):
                steps.append(f"mount -o remount,bind,ro {target}")
        steps += [f"mount --bind {source} {root}{path}" for path, source in mounts.items()]
        steps += [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
        if container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            steps.append(f"mount -o remount,ro {root}")
        inside = container.get("command", ["/usr/local/bin/holdfast"]) + container.get("args", [])
        quoted = " ".join("'" + expand(part, variables).replace("'", "'\\''") + "'" for part in inside)
        steps.append(f"exec chroot {root} setpriv --reuid {self.user} --regid {self.group} --groups {self.volume_group} --inh-caps=-all --bounding-set=-all --no-new-privs {quoted}")
        return ["nsenter", "--target", str(self.holder.pid), "--net", "unshare", "--mount", "sh", "-ec", " && ".join(steps)]

    def execute(self, pid, command, variables, seconds=120):
        """In a running container, as `kubectl exec` does: its namespaces and variables; exit code and output."""
        enter = ["nsenter", "--target", str(pid), "--mount", "--net", "--root", "setpriv", "--reuid", str(self.user), "--regid", str(self.group), "--clear-groups"]
        done = subprocess.run(enter + command, env=variables, capture_output=True, text=True, timeout=seconds)
        return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def probe(self, probe, container):
        """Whether a probe by HTTP succeeds, and what it met otherwise."""
        request = probe["httpGet"]
        port = next((port["containerPort"] for port in container["ports"] if port["name"] == request["port"]), request["port"])
        try:
            with urllib.request.urlopen(f"http://{self.ip}:{port}{request['path']}", timeout=probe.get("timeoutSeconds", 1)) as answer:
                return 200 <= answer.status < 400, str(answer.status)
        except urllib.error.HTTPError as error:
            return False, f"HTTP probe failed with statuscode: {error.code}"
        except OSError as error:
            return False, f"Get \"http://{self.ip}:{port}{request['path']}\": {error}"
