//! The operations of the document, in the order of their paths.

/// One method of one path.
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// Below `/holdfast/v1`.
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    /// Parameters of the query with their schemas.
    pub(super) query: &'static [(&'static str, &'static str)],
    pub(super) headers: &'static [&'static str],
    pub(super) body: Option<RequestBody>,
    pub(super) answers: &'static [Answer],
}

/// The body of a request.
#[derive(Clone, Copy)]
pub(super) struct RequestBody {
    pub(super) required: bool,
    pub(super) media_type: &'static str,
    pub(super) schema: &'static str,
}

/// A successful answer.
pub(super) struct Answer {
    pub(super) status: u16,
    /// `None`: no body.
    pub(super) schema: Option<&'static str>,
}

const fn get(path: &'static str, id: &'static str, summary: &'static str, answers: &'static [Answer]) -> Operation {
    operation("GET", path, id, summary, answers)
}

const fn operation(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    answers: &'static [Answer],
) -> Operation {
    Operation {
        method,
        path,
        id,
        summary,
        query: &[],
        headers: &[],
        body: None,
        answers,
    }
}

impl Operation {
    const fn query(mut self, query: &'static [(&'static str, &'static str)]) -> Self {
        self.query = query;
        self
    }

    const fn headers(mut self, headers: &'static [&'static str]) -> Self {
        self.headers = headers;
        self
    }

    const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(RequestBody {
            required: true,
            media_type: "application/json",
            schema,
        });
        self
    }

    const fn optional_body(mut self, schema: &'static str) -> Self {
        self.body = Some(RequestBody {
            required: false,
            media_type: "application/json",
            schema,
        });
        self
    }

    const fn file(mut self, schema: &'static str) -> Self {
        self.body = Some(RequestBody {
            required: true,
            media_type: "application/octet-stream",
            schema,
        });
        self
    }
}

const fn ok(schema: &'static str) -> Answer {
    Answer {
        status: 200,
        schema: Some(schema),
    }
}

const fn created(schema: &'static str) -> Answer {
    Answer {
        status: 201,
        schema: Some(schema),
    }
}

const NO_CONTENT: Answer = Answer {
    status: 204,
    schema: None,
};

const TOP: (&str, &str) = (
    "top",
    r#"{"type": "integer", "minimum": 1, "description": "More than 1000 count as 1000"}"#,
);
const AFTER: (&str, &str) = (
    "after",
    r#"{"type": "string", "description": "`continuation` of the page before"}"#,
);
const PAGES: &[(&str, &str)] = &[TOP, AFTER];
const ROLLOVER: &[(&str, &str)] = &[
    ("ca", r#"{"type": "string"}"#),
    ("issuer", r#"{"type": "string"}"#),
    TOP,
    AFTER,
];
const CONDITIONS: &[&str] = &["If-Match", "If-None-Match"];
const IF_MATCH: &[&str] = &["If-Match"];

/// All operations.
pub(super) const OPERATIONS: &[Operation] = &[
    get("/openapi.json", "getOpenApi", "This document", &[ok("OpenApi")]),
    get("/hub", "getHub", "The hub's names, limits and policies", &[ok("Hub")]),
    get("/settings", "getSettings", "Values of the whole hub", &[ok("Settings")]),
    operation(
        "PATCH",
        "/settings",
        "patchSettings",
        "Change values; what is not named stays",
        &[ok("Settings")],
    )
    .body("SettingsChange"),
    get(
        "/consumerGroups",
        "listConsumerGroups",
        "The consumer groups",
        &[ok("ConsumerGroups")],
    ),
    operation(
        "PUT",
        "/consumerGroups/{name}",
        "putConsumerGroup",
        "Add a consumer group",
        &[ok("ConsumerGroup"), created("ConsumerGroup")],
    )
    .optional_body("ConsumerGroup"),
    operation(
        "DELETE",
        "/consumerGroups/{name}",
        "deleteConsumerGroup",
        "Remove a consumer group",
        &[NO_CONTENT],
    ),
    get(
        "/policies",
        "listPolicies",
        "The shared access policies",
        &[ok("Policies")],
    ),
    get("/policies/{name}", "getPolicy", "A policy", &[ok("Policy")]),
    operation(
        "PUT",
        "/policies/{name}",
        "putPolicy",
        "Create a policy, or change its rights or keys",
        &[ok("Policy"), created("Policy")],
    )
    .headers(CONDITIONS)
    .body("PolicyWrite"),
    operation(
        "DELETE",
        "/policies/{name}",
        "deletePolicy",
        "Delete a policy",
        &[NO_CONTENT],
    ),
    operation(
        "POST",
        "/policies/{name}/regenerateKey",
        "regeneratePolicyKey",
        "Replace one key",
        &[ok("Policy")],
    )
    .body("KeyChoice"),
    operation(
        "POST",
        "/policies/{name}/swapKeys",
        "swapPolicyKeys",
        "Exchange both keys",
        &[ok("Policy")],
    ),
    get(
        "/certificates",
        "listCertificates",
        "The CAs of devices",
        &[ok("Certificates")],
    ),
    get("/certificates/{name}", "getCertificate", "A CA", &[ok("Certificate")]),
    operation(
        "PUT",
        "/certificates/{name}",
        "putCertificate",
        "Add a CA, or with If-Match replace its certificate",
        &[ok("Certificate"), created("Certificate")],
    )
    .headers(IF_MATCH)
    .body("CertificateWrite"),
    operation(
        "DELETE",
        "/certificates/{name}",
        "deleteCertificate",
        "Remove a CA",
        &[NO_CONTENT],
    )
    .headers(IF_MATCH),
    operation(
        "POST",
        "/certificates/{name}/generateVerificationCode",
        "generateVerificationCode",
        "A code for the proof that the caller has the CA's key",
        &[ok("Certificate")],
    )
    .headers(IF_MATCH),
    operation(
        "POST",
        "/certificates/{name}/verify",
        "verifyCertificate",
        "Check the proof",
        &[ok("Certificate")],
    )
    .headers(IF_MATCH)
    .body("CertificateProof"),
    get(
        "/certificates/{name}/crl",
        "getCrl",
        "The revocation list of a CA, without its entries",
        &[ok("Crl")],
    ),
    operation(
        "PUT",
        "/certificates/{name}/crl",
        "putCrl",
        "Give a CA its current revocation list, PEM or DER",
        &[ok("Crl"), created("Crl")],
    )
    .file("File"),
    operation(
        "DELETE",
        "/certificates/{name}/crl",
        "deleteCrl",
        "Forget the revocation list",
        &[NO_CONTENT],
    ),
    get(
        "/rollover",
        "planRollover",
        "Devices and modules that are still below a CA or an intermediate",
        &[ok("Rollover")],
    )
    .query(ROLLOVER),
    get(
        "/revocations",
        "listRevocations",
        "The deny list of certificates",
        &[ok("Revocations")],
    )
    .query(PAGES),
    operation(
        "POST",
        "/revocations",
        "revoke",
        "Put a certificate on the deny list",
        &[ok("Revocation"), created("Revocation")],
    )
    .body("RevocationWrite"),
    get(
        "/revocations/{entry}",
        "getRevocation",
        "An entry of the deny list",
        &[ok("Revocation")],
    ),
    operation(
        "DELETE",
        "/revocations/{entry}",
        "deleteRevocation",
        "Take an entry off the deny list",
        &[NO_CONTENT],
    ),
    get(
        "/devices",
        "listDevices",
        "Devices in the order of their ids",
        &[ok("Devices")],
    )
    .query(PAGES),
    get(
        "/devices/{id}/c2d",
        "listMessages",
        "Messages that wait for a device, and its dead letters",
        &[ok("Queue")],
    ),
    operation(
        "POST",
        "/devices/{id}/c2d",
        "sendMessage",
        "Send a message to a device",
        &[created("SentMessage")],
    )
    .body("MessageWrite"),
    operation(
        "POST",
        "/devices/{id}/c2d/requeue",
        "requeueMessages",
        "Put dead letters back into the queue",
        &[ok("Requeued")],
    )
    .optional_body("SequenceNumbers"),
    get(
        "/devices/{id}/modules/{moduleId}/c2d",
        "listModuleMessages",
        "Messages that wait for a module, and its dead letters",
        &[ok("Queue")],
    ),
    operation(
        "POST",
        "/devices/{id}/modules/{moduleId}/c2d",
        "sendModuleMessage",
        "Send a message to a module",
        &[created("SentMessage")],
    )
    .body("MessageWrite"),
    operation(
        "POST",
        "/devices/{id}/modules/{moduleId}/c2d/requeue",
        "requeueModuleMessages",
        "Put dead letters of a module back into the queue",
        &[ok("Requeued")],
    )
    .optional_body("SequenceNumbers"),
    get(
        "/twins/{id}/history",
        "getTwinHistory",
        "Earlier versions of a device's twin",
        &[ok("TwinHistory")],
    ),
    get(
        "/twins/{id}/modules/{moduleId}/history",
        "getModuleTwinHistory",
        "Earlier versions of a module's twin",
        &[ok("TwinHistory")],
    ),
    get(
        "/diagnose/{id}",
        "diagnoseDevice",
        "Why a device cannot connect",
        &[ok("Diagnosis")],
    ),
    get(
        "/diagnose/{id}/modules/{moduleId}",
        "diagnoseModule",
        "Why a module cannot connect",
        &[ok("Diagnosis")],
    ),
    operation(
        "POST",
        "/trace/{id}",
        "traceDevice",
        "Begin a live trace of a device, or take what it has seen",
        &[ok("Trace")],
    )
    .body("TraceWrite"),
    operation(
        "POST",
        "/trace/{id}/modules/{moduleId}",
        "traceModule",
        "The same for a module",
        &[ok("Trace")],
    )
    .body("TraceWrite"),
    operation(
        "POST",
        "/queries/explain",
        "explainQuery",
        "How a query finds its devices",
        &[ok("Explanation")],
    )
    .body("Query"),
    get(
        "/queries/saved",
        "listSavedQueries",
        "The saved queries",
        &[ok("SavedQueries")],
    )
    .query(PAGES),
    get(
        "/queries/saved/{name}",
        "getSavedQuery",
        "A saved query",
        &[ok("SavedQuery")],
    ),
    operation(
        "PUT",
        "/queries/saved/{name}",
        "putSavedQuery",
        "Save a query",
        &[ok("SavedQuery"), created("SavedQuery")],
    )
    .headers(CONDITIONS)
    .body("SavedQueryWrite"),
    operation(
        "DELETE",
        "/queries/saved/{name}",
        "deleteSavedQuery",
        "Delete a saved query",
        &[NO_CONTENT],
    )
    .headers(IF_MATCH),
    get(
        "/queries/saved/{name}/devices",
        "runSavedQuery",
        "A page of its results",
        &[ok("Results")],
    ),
    operation(
        "POST",
        "/queries/saved/{name}/devices",
        "postRunSavedQuery",
        "As GET",
        &[ok("Results")],
    ),
    get(
        "/backup",
        "getBackupFacts",
        "What a backup needs to know of the hub",
        &[ok("BackupFacts")],
    ),
    get(
        "/backup/groups/{group}",
        "exportGroup",
        "The state of a group, in frames: for `holdfast backup`",
        &[Answer {
            status: 200,
            schema: None,
        }],
    )
    .query(&[(
        "log",
        r#"{"type": "string", "description": "none, all, or the index of the last entry that is not wanted"}"#,
    )]),
    get(
        "/cluster",
        "getCluster",
        "Nodes, groups and what is in progress",
        &[ok("Cluster")],
    ),
    operation(
        "PUT",
        "/cluster/replication",
        "setReplication",
        "How many replicas each partition has",
        &[ok("Replication")],
    )
    .body("ReplicationWrite"),
    operation(
        "POST",
        "/cluster/feature-level",
        "raiseFeatureLevel",
        "Permit the newest formats that all members support; no node can be set back to an earlier version then",
        &[ok("FeatureLevel")],
    ),
    get(
        "/nodes/tokens",
        "listJoinTokens",
        "Tokens with which nodes may join",
        &[ok("JoinTokens")],
    ),
    operation(
        "POST",
        "/nodes/tokens",
        "createJoinToken",
        "A token for one node",
        &[created("JoinToken")],
    )
    .optional_body("JoinTokenWrite"),
    operation(
        "DELETE",
        "/nodes/tokens/{token}",
        "revokeJoinToken",
        "Revoke a token",
        &[ok("TokenState")],
    ),
    operation(
        "POST",
        "/nodes/{node}/drain",
        "drainNode",
        "Move everything off a node",
        &[ok("NodeState")],
    ),
    operation(
        "DELETE",
        "/nodes/{node}/drain",
        "undrainNode",
        "Take a node back into service",
        &[ok("NodeState")],
    ),
    operation(
        "GET",
        "/nodes/{node}/debug",
        "debugNode",
        "Configuration without secrets, metrics, last log lines, versions and threads of a node",
        &[ok("NodeDebug")],
    ),
    operation(
        "DELETE",
        "/nodes/{node}",
        "removeNode",
        "Remove a drained node, or a dead one by force",
        &[ok("NodeState")],
    )
    .query(&[("force", r#"{"type": "boolean"}"#)]),
];
