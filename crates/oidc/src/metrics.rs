//! Metrics of the issuer's keys (docs/metrics.md).

holdfast_model::metrics! {
    /// Fetches of the keys of the bearer tokens' issuer: done, or failed, after which the keys stay as they were.
    counter key_fetches(outcome) = "holdfast_oidc_key_fetches_total";
    /// Keys of the issuer that tokens are checked with; 0 while none have been read.
    gauge keys() = "holdfast_oidc_keys";
}
