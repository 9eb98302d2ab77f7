//! Metrics of the provisioning service (docs/metrics.md).

holdfast_model::metrics! {
    /// Registrations of devices: assigned, failed, disabled, refused, or busy.
    counter registrations(protocol, outcome) = "holdfast_provisioning_registrations_total";
    /// Time from a device's request to its answer, in seconds; penalties are not part of it.
    histogram seconds(call) = "holdfast_provisioning_request_seconds";
    /// Attestations that were accepted: by symmetricKey, x509 or tpm, of an individual enrollment or a group.
    counter attestations(kind, enrollment) = "holdfast_provisioning_attestations_total";
    /// Calls of webhooks: chosen, refused, unanswered.
    counter webhook_calls(outcome) = "holdfast_provisioning_webhook_calls_total";
    /// Ends of operations that took several steps: assigned, failed.
    counter operations(outcome) = "holdfast_provisioning_operations_total";
    /// Challenges that were made for TPMs.
    counter tpm_challenges(protocol) = "holdfast_provisioning_tpm_challenges_total";
    /// Certificates for devices: issued, or failed by the CA or its signer.
    counter certificates(outcome) = "holdfast_provisioning_certificates_total";
    /// Registrations that were decided again, because something had changed meanwhile.
    counter conflicts() = "holdfast_provisioning_conflicts_total";
    /// How far a linked hub that answers is from this node, in seconds, as `geoLatency` uses it; measured each minute.
    gauge hub_latency(hub) = "holdfast_provisioning_hub_latency_seconds";
}
