//! Metrics of the listeners (docs/metrics.md).

holdfast_model::metrics! {
    /// Connections that ended before TLS: by net.ip_rules (ip), or without a head of the PROXY protocol that net.proxies must
    /// send (proxy_head).
    counter rejected(reason) = "holdfast_net_rejected_total";
}
