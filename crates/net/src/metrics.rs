//! Metrics of the listeners (docs/metrics.md).

holdfast_model::metrics! {
    /// Connections that ended before TLS: by net.ip_rules (ip), or without a head of the PROXY protocol that net.proxies must
    /// send (proxy_head).
    counter rejected(reason) = "holdfast_net_rejected_total";
    /// TLS handshakes that were completed: by version (1.2, 1.3), and whether a session was resumed (resumed) or not (full).
    counter handshakes(version, kind) = "holdfast_tls_handshakes_total";
    /// Full TLS handshakes by what their clients need: the name that they named (hub, device, service, alias, other, none), the version, the
    /// keys of servers that they can verify (ecdsa_rsa, ecdsa, rsa, other), and the chain that they were shown.
    counter clients(name, version, signatures, chain) = "holdfast_tls_clients_total";
}
