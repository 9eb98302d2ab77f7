#!/usr/bin/env python3
"""The Grafana dashboards, as data: dashboards.py [--write | --rules]

A dashboard is rows of panels, and a panel is a title, a unit and queries; the JSON of Grafana follows from these and lies in
helm/holdfast/files/dashboards, from where the chart serves it and `import` in Grafana takes it. Without --write it only compares, and checks
that each metric of dashboards and alerts is one of docs/metrics.md, and that each section of docs/runbook.md that they link to exists. RUNBOOK in links is
the address of that page; the chart puts it in. --rules prints all queries as
recording rules, so that promtool can say whether they parse.
"""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "helm/holdfast/files/dashboards"
ALERTS = ROOT / "helm/holdfast/files/alerts.yaml"
S = '{job=~"$job",instance=~"$instance"}'


def rate(metric, by, labels=""):
    """Per second, summed by labels."""
    selector = S.replace("}", f",{labels}}}") if labels else S
    return f"sum by ({by}) (rate({metric}{selector}[$__rate_interval]))"


def happening(metric, by):
    """`rate` without the lines that are zero, where there are many."""
    return f"{rate(metric, by)} > 0"


def quantile(q, metric, by="instance"):
    return f"histogram_quantile({q}, {rate(metric + '_bucket', by + ', le')})"


def total(metric, by="instance"):
    return f"sum by ({by}) ({metric}{S})"


# Title, unit, queries with their legends; "stat" for one number.
OVERVIEW = [
    ("Now", [
        ("Sessions", "short", [(f"sum(holdfast_device_hub_sessions{S})", "")], "stat"),
        ("Devices registered", "short", [(f"max(holdfast_registry_devices{S})", "")], "stat"),
        ("Nodes that accept connections", "short", [(f"sum(holdfast_registry_lease_held{S})", "")], "stat"),
        ("Partitions without an owner", "short", [(f"max(holdfast_cluster_unowned_partitions{S})", "")], "stat"),
        ("Free disk, least", "bytes", [(f"min(holdfast_storage_free_bytes{S})", "")], "stat"),
        ("Daily quota used", "percentunit", [(f"max(holdfast_daily_message_quota_share{S})", "")], "stat"),
    ]),
    ("Devices", [
        ("Messages acknowledged", "msg/s", [(rate("holdfast_d2c_telemetry_ingress_success_total", "instance"), "{{instance}}")]),
        ("Sessions by node", "short", [(total("holdfast_device_hub_sessions"), "{{instance}}")]),
        ("Connections by protocol", "short", [(total("holdfast_gateway_connections", "protocol"), "{{protocol}}")]),
        ("Connects", "ops", [(rate("holdfast_gateway_connects_total", "protocol"), "{{protocol}}")]),
        ("Ends of connections", "ops", [(happening("holdfast_gateway_connections_ended_total", "protocol, reason"), "{{protocol}} {{reason}}")]),
        ("Refusals", "ops", [(happening("holdfast_refusals_total", "reason"), "{{reason}}")]),
        ("Throttled", "ops", [(rate("holdfast_throttled_total", "class, effect"), "{{class}} {{effect}}"),
                              (rate("holdfast_device_throttled_total", "class"), "one device: {{class}}")]),
        ("Requests over HTTPS", "reqps", [(happening("holdfast_https_requests_total", "call, class"), "{{call}} {{class}}")]),
        ("Broken rules of protocols", "ops", [(rate("holdfast_gateway_violations_total", "protocol, rule"), "{{protocol}} {{rule}}")]),
    ]),
    ("Provisioning", [
        ("Registrations", "ops", [(happening("holdfast_provisioning_registrations_total", "protocol, outcome"), "{{protocol}} {{outcome}}")]),
        ("Registrations, time to the answer", "s", [(quantile(0.5, "holdfast_provisioning_request_seconds", "job"), "median"),
                                                    (quantile(0.99, "holdfast_provisioning_request_seconds", "job"), "99 of 100")]),
        ("Latency of linked hubs", "s", [(f"min by (hub) (holdfast_provisioning_hub_latency_seconds{S})", "{{hub}}")]),
        ("Certificates for devices", "ops", [(rate("holdfast_provisioning_certificates_total", "outcome"), "{{outcome}}")]),
    ]),
    ("Back ends", [
        ("REST calls", "reqps", [(happening("holdfast_rest_requests_total", "class"), "{{class}}")]),
        ("REST, time to the answer", "s", [(quantile(0.5, "holdfast_rest_request_seconds", "job"), "median"),
                                           (quantile(0.99, "holdfast_rest_request_seconds", "job"), "99 of 100")]),
        ("Events sent to readers", "msg/s", [(rate("holdfast_events_sent_total", "instance"), "{{instance}}")]),
        ("Readers behind the end", "short", [(f"max by (partition) (holdfast_partition_reader_lag_messages{S})", "partition {{partition}}")]),
        ("Messages to devices", "msg/s", [(rate("holdfast_c2d_messages_enqueued_total", "job"), "queued"),
                                          (rate("holdfast_c2d_commands_egress_complete_success_total", "job"), "completed"),
                                          (rate("holdfast_c2d_messages_expired_total", "job"), "expired")]),
        ("Oldest message to a device", "s", [(f"max(holdfast_c2d_oldest_message_seconds{S})", "age")]),
        ("Methods", "ops", [(rate("holdfast_device_hub_methods_invoked_total", "job"), "called"),
                            (rate("holdfast_device_hub_methods_failed_total", "job"), "without an answer")]),
        ("Twins", "ops", [(rate("holdfast_twin_reads_total", "job"), "read"), (rate("holdfast_twin_writes_total", "job"), "written"),
                          (rate("holdfast_twin_reports_total", "job"), "reported")]),
    ]),
]

CLUSTER = [
    ("Commits and disks", [
        ("Commits, 99 of 100", "s", [(quantile(0.99, "holdfast_consensus_commit_seconds", "instance, kind"), "{{instance}} {{kind}}")]),
        ("Syncs, 99 of 100", "s", [(quantile(0.99, "holdfast_storage_sync_seconds"), "{{instance}}")]),
        ("Syncs", "ops", [(rate("holdfast_storage_syncs_total", "instance"), "{{instance}}")]),
        ("Bytes written", "Bps", [(rate("holdfast_storage_written_bytes_total", "instance"), "{{instance}}")]),
        ("Free disk", "bytes", [(total("holdfast_storage_free_bytes"), "{{instance}}")]),
        ("Files by family", "bytes", [(total("holdfast_storage_file_bytes", "family"), "{{family}}")]),
    ]),
    ("Leaders and replicas", [
        ("Groups led", "short", [(total("holdfast_control_led_groups"), "{{instance}}")]),
        ("Replicas", "short", [(total("holdfast_control_replicas"), "{{instance}}")]),
        ("Groups whose members are not as wanted", "short", [(total("holdfast_control_unsettled_groups"), "{{instance}}")]),
        ("Changes of owners", "ops", [(rate("holdfast_cluster_owner_changes_total", "instance"), "{{instance}}")]),
        ("Time without a leader", "s", [(quantile(0.5, "holdfast_consensus_leaderless_seconds", "cause"), "{{cause}}, half"),
                                        (quantile(0.99, "holdfast_consensus_leaderless_seconds", "cause"), "{{cause}}, 99 of 100")]),
        ("Batches for owners elsewhere", "ops", [(rate("holdfast_cluster_remote_appends_total", "instance"), "{{instance}}"),
                                                 (rate("holdfast_cluster_remote_append_failures_total", "instance"), "failed at {{instance}}")]),
        ("Snapshots", "ops", [(rate("holdfast_consensus_snapshots_total", "direction, outcome"), "{{direction}} {{outcome}}")]),
    ]),
    ("Between nodes", [
        ("Nodes that can be called", "short", [(total("holdfast_peer_connected"), "{{instance}}")]),
        ("Round trip, 99 of 100", "s", [(quantile(0.99, "holdfast_peer_rtt_seconds"), "{{instance}}")]),
        ("Bytes", "Bps", [(rate("holdfast_peer_bytes_total", "instance, direction"), "{{instance}} {{direction}}")]),
        ("Waits to be sent", "bytes", [(total("holdfast_peer_queue_bytes"), "{{instance}}")]),
        ("Connections lost", "ops", [(rate("holdfast_peer_losses_total", "instance"), "{{instance}}")]),
        ("Nodes refused", "ops", [(happening("holdfast_peer_refusals_total", "reason"), "{{reason}}")]),
    ]),
    ("Processes", [
        ("CPU", "short", [(rate("holdfast_process_cpu_seconds", "instance"), "{{instance}}")]),
        ("Memory", "bytes", [(total("holdfast_process_resident_bytes"), "{{instance}}")]),
        ("Open files", "short", [(total("holdfast_process_open_files"), "{{instance}}")]),
        ("Panics", "short", [(total("holdfast_tasks_panics"), "{{instance}}")]),
    ]),
]

SECURITY = [
    ("Certificates", [
        ("Server certificates end in", "s", [(f"min by (certificate) (holdfast_tls_certificate_expiry_seconds{S}) - time()", "{{certificate}}")], "stat"),
        ("Certificates of nodes end in", "s", [(f"min(holdfast_peer_certificate_expiry_seconds{S} > 0) - time()", "first")], "stat"),
        ("CAs of devices that end", "short", [(f"max by (within) (holdfast_cas_ending{S})", "{{within}}")], "stat"),
        ("CRLs that have ended", "short", [(f"max(holdfast_crls_ended{S})", "")], "stat"),
        ("Certificates loaded anew", "ops", [(rate("holdfast_tls_certificate_reloads_total", "outcome"), "{{outcome}}")]),
        ("CRLs fetched", "ops", [(rate("holdfast_crl_fetches_total", "outcome"), "{{outcome}}")]),
    ]),
    ("Clients", [
        ("Handshakes", "ops", [(rate("holdfast_tls_handshakes_total", "version, kind"), "{{version}} {{kind}}")]),
        ("Names that clients use", "ops", [(rate("holdfast_tls_clients_total", "name, chain"), "{{name}}, {{chain}}")]),
        ("Rejected before TLS", "ops", [(happening("holdfast_net_rejected_total", "reason"), "{{reason}}")]),
        ("Refusals", "ops", [(happening("holdfast_refusals_total", "reason"), "{{reason}}")]),
        ("Refusals answered late", "ops", [(rate("holdfast_refusals_delayed_total", "protocol"), "{{protocol}}")]),
        ("SHA-1 thumbprints", "ops", [(rate("holdfast_device_hub_sha1_thumbprint_connects_total", "job"), "connects")]),
        ("Keys of the issuer", "short", [(total("holdfast_oidc_keys"), "{{instance}}")]),
        ("Lines of the audit log lost", "ops", [(rate("holdfast_audit_lost_total", "instance"), "{{instance}}")]),
    ]),
]

DASHBOARDS = {"overview": ("Holdfast: devices and back ends", OVERVIEW), "cluster": ("Holdfast: nodes, disks, replicas", CLUSTER),
              "security": ("Holdfast: certificates and refusals", SECURITY)}
# What a panel's title links to, in docs/runbook.md; each dashboard links to "Watching".
SECTIONS = {
    "Sessions": "holdfastsessionsdrop", "Nodes that accept connections": "holdfastnotready", "Partitions without an owner": "holdfastpartitionwithoutowner",
    "Free disk, least": "holdfastdiskfills", "Daily quota used": "holdfastquotanearlyused", "Refusals": "holdfastrefusalsgrow", "Throttled": "holdfastthrottled",
    "Readers behind the end": "holdfastreadermissedmessages", "Commits, 99 of 100": "holdfastcommitsslow", "Syncs, 99 of 100": "holdfastdiskslow",
    "Free disk": "holdfastdiskfills", "Groups whose members are not as wanted": "holdfastmovesstuck", "Connections lost": "holdfastpeersunstable",
    "Nodes refused": "holdfastpeersrefused", "Open files": "holdfastfilesnearlimit", "Panics": "holdfastpanics",
    "Server certificates end in": "holdfastcertificateends", "Certificates of nodes end in": "holdfastcertificateends",
    "CAs of devices that end": "holdfastdevicecaends", "CRLs that have ended": "holdfastcrlsold", "CRLs fetched": "holdfastcrlsold",
    "Certificates loaded anew": "holdfastcertificatenotloaded", "Keys of the issuer": "holdfastissuerunreachable",
    "Lines of the audit log lost": "holdfastauditlost", "Latency of linked hubs": "a-linked-hub-is-down", "Registrations": "a-device-does-not-register",
    "Messages to devices": "a-device-does-not-get-its-messages", "Nodes that can be called": "holdfastmemberdown",
}
# Where a number's colour changes: green, and from here red; `below`: red, and from here green.
RED_FROM = {"Partitions without an owner": 1, "CRLs that have ended": 1, "Daily quota used": 0.9}
RED_BELOW = {"Server certificates end in": 7 * 86400, "Certificates of nodes end in": 7 * 86400}
SOURCE = {"type": "prometheus", "uid": "${source}"}


def thresholds(title):
    first, then = ("red", "green") if title in RED_BELOW else ("green", "red")
    limit = RED_BELOW.get(title, RED_FROM.get(title))
    return {"mode": "absolute", "steps": [{"color": first, "value": None}, *([{"color": then, "value": limit}] if limit else [])]}


def panel(number, x, y, width, title, unit, queries, kind="timeseries"):
    height = 4 if kind == "stat" else 8
    targets = [{"datasource": SOURCE, "expr": expr, "legendFormat": legend or "__auto", "refId": chr(ord("A") + at)}
               for at, (expr, legend) in enumerate(queries)]
    # Counters appear with their first event.
    defaults = {"unit": unit, "noValue": "none"} | ({"min": 0} if kind == "timeseries" else {"thresholds": thresholds(title)})
    section = SECTIONS.get(title)
    links = [{"title": "Runbook", "url": f"RUNBOOK#{section}", "targetBlank": True}] if section else []
    return {"id": number, "links": links, "type": kind, "title": title, "datasource": SOURCE, "gridPos": {"h": height, "w": width, "x": x, "y": y},
            "fieldConfig": {"defaults": defaults, "overrides": []}, "targets": targets}


def dashboard(name, title, rows):
    panels, y, number = [], 0, 1
    for heading, row in rows:
        panels.append({"id": number, "type": "row", "title": heading, "collapsed": False, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []})
        number, y, x = number + 1, y + 1, 0
        for made in row:
            width = 4 if made[-1] == "stat" else 12
            if x + width > 24 or (x and (panels[-1]["gridPos"]["w"] != width)):
                x, y = 0, y + panels[-1]["gridPos"]["h"]
            panels.append(panel(number, x, y, width, *made))
            number, x = number + 1, x + width
        y += panels[-1]["gridPos"]["h"]
    variable = {"type": "query", "datasource": SOURCE, "refresh": 2, "multi": True, "includeAll": True, "current": {"text": "All", "value": "$__all"}}
    return {
        "uid": f"holdfast-{name}", "title": title, "tags": ["holdfast"], "schemaVersion": 39, "timezone": "browser", "refresh": "30s",
        "links": [{"title": "Runbook", "type": "link", "icon": "doc", "url": "RUNBOOK#watching", "targetBlank": True, "tags": [], "asDropdown": False}],
        "time": {"from": "now-6h", "to": "now"}, "editable": True,
        "templating": {"list": [
            {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
            {"name": "job", "query": "label_values(holdfast_build_info, job)", **variable},
            {"name": "instance", "query": 'label_values(holdfast_build_info{job=~"$job"}, instance)', **variable}]},
        "panels": panels}


def names(text):
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bholdfast_[a-z0-9_]+", text)}


def rules():
    panels = [panel for _, rows in DASHBOARDS.values() for _, row in rows for panel in row]
    queries = [query.replace("$__rate_interval", "5m") for _, _, queries, *_ in panels for query, _ in queries]
    return {"groups": [{"name": "dashboards", "rules": [{"record": f"dashboard:query:{at}", "expr": query} for at, query in enumerate(queries)]}]}


def main():
    if "--rules" in sys.argv[1:]:
        # JSON is YAML.
        return print(json.dumps(rules()))
    write = "--write" in sys.argv[1:]
    wrong = []
    made = {name: json.dumps(dashboard(name, *what), indent=1) + "\n" for name, what in DASHBOARDS.items()}
    for name, text in made.items():
        file = FOLDER / f"{name}.json"
        if write:
            FOLDER.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            wrong.append(f"{file.relative_to(ROOT)} does not follow deploy/monitoring/dashboards.py: run it with --write")
    known = names((ROOT / "docs/metrics.md").read_text())
    places = [*((f"dashboard {name}", text) for name, text in made.items()), ("alerts.yaml", ALERTS.read_text())]
    for place, text in places:
        wrong += [f"{place}: {name} is no metric of docs/metrics.md" for name in sorted(names(text) - known)]
    anchors = {re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
               for line in (ROOT / "docs/runbook.md").read_text().splitlines() if line.startswith("#")}
    for place, text in places:
        wrong += [f"{place}: docs/runbook.md has no section #{anchor}" for anchor in sorted(set(re.findall(r"RUNBOOK#([a-z0-9-]+)", text)) - anchors)]
    alerts = ALERTS.read_text()
    if alerts.count(" alert: ") != alerts.count("runbook_url: RUNBOOK#"):
        wrong.append("alerts.yaml: an alert has no runbook_url")
    titles = {title for _, rows in DASHBOARDS.values() for _, row in rows for title, *_ in row}
    wrong += [f"dashboards.py: no panel has the title {title}" for title in sorted((set(SECTIONS) | set(RED_FROM) | set(RED_BELOW)) - titles)]
    if wrong:
        sys.exit("\n".join(wrong))


main()
