//! Back-end front ends: REST and the Event-Hubs-compatible endpoint.
