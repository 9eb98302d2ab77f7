//! Which devices are still below a CA or an intermediate: `GET /holdfast/v1/rollover`, for an operator who replaces it.
//!
//! Only identities with `certificateAuthority` authentication are looked at. One of them is counted by the chain of its live
//! connection, or of its last one.
//! Invariant: a call passes at most `top` identities of the registry, so that its work is bounded, and may return fewer; only a null
//! `continuation` means the end.

use std::ops::ControlFlow;

use data_encoding::HEXUPPER;
use holdfast_device_hub::ConnectionChain;
use holdfast_model::{DeviceId, IdentityId, ModuleId};
use holdfast_registry::{Authorities, DeviceRange, IdentityKind, RevokedCertificate, Scan, Scanned};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::path::{page_size, query};
use super::super::timestamps::iso;
use super::Request;
use holdfast_net::http_api::Reply;

/// How a continuation begins once all devices have been passed.
const MODULES: &str = "modules/";

/// `GET /holdfast/v1/rollover?ca=NAME` or `?issuer=SHA256`, with `top` and `after`.
pub(super) async fn plan(request: &Request<'_>) -> Result<Reply, ApiError> {
    let top = page_size(request.uri, "top")?;
    let issuer = issuer(request).await?;
    let scan = scan(query(request.uri, "after").as_deref().unwrap_or_default(), top)?;
    request.within(request.shared.registry().read_barrier()).await?;
    let (kind, registry) = (scan.kind, request.shared.registry().clone());
    let read = move || {
        let mut found = Vec::new();
        let scanned = registry.scan(
            &scan,
            |_| true,
            |summary| {
                if summary.authentication_type == "certificateAuthority" {
                    found.push(summary.id);
                }
                ControlFlow::Continue(())
            },
        );
        scanned.map(|scanned| (found, scanned))
    };
    let (identities, scanned) = request.within(holdfast_tasks::spawn_blocking(read)).await?;
    let asked: Vec<&IdentityId> = identities.iter().collect();
    let chains = request.shared.hub.chains(&asked).await;
    let authorities = request.shared.registry().authorities();
    let (mut below, mut elsewhere, mut unknown) = (Vec::new(), 0, 0);
    for (identity, chain) in identities.iter().zip(&chains) {
        if chain.issuers.contains(&issuer) {
            below.push(show(identity, chain, &authorities));
        } else if chain.issuers.is_empty() {
            unknown += 1;
        } else {
            elsewhere += 1;
        }
    }
    Ok(Reply::ok(json!({
        "issuer": HEXUPPER.encode(&issuer),
        "counts": {"below": below.len(), "elsewhere": elsewhere, "unknown": unknown},
        "devices": below,
        "continuation": continuation(kind, &scanned),
    })))
}

/// The certificate that the query names.
async fn issuer(request: &Request<'_>) -> Result<[u8; 32], ApiError> {
    match (query(request.uri, "ca"), query(request.uri, "issuer")) {
        (Some(name), None) => {
            let authority = request.within(request.shared.registry().authority(&name)).await?;
            Ok(authority.certificate.fingerprints().sha256)
        }
        (None, Some(digest)) => match RevokedCertificate::parse(&digest) {
            Some(RevokedCertificate::Digest(digest)) => Ok(digest),
            _ => Err(ApiError::invalid(
                "issuer must be the SHA-256 of a certificate, 64 hexadecimal digits",
            )),
        },
        _ => Err(ApiError::invalid(
            "give either ca, the name of a CA of the hub, or issuer, the SHA-256 of a certificate",
        )),
    }
}

fn scan(after: &str, most: usize) -> Result<Scan, ApiError> {
    let invalid = || ApiError::invalid("after is no continuation of this list");
    let (kind, after) = match after.strip_prefix(MODULES) {
        None if after.is_empty() => (IdentityKind::Devices, None),
        None => {
            let device = DeviceId::parse(after).map_err(|_| invalid())?;
            (IdentityKind::Devices, Some(IdentityId::device(device)))
        }
        Some("") => (IdentityKind::Modules, None),
        Some(module) => {
            let (device, module) = module.split_once('/').ok_or_else(invalid)?;
            let device = DeviceId::parse(device).map_err(|_| invalid())?;
            let module = ModuleId::parse(module).map_err(|_| invalid())?;
            (IdentityKind::Modules, Some(IdentityId::module(device, module)))
        }
    };
    Ok(Scan {
        kind,
        range: DeviceRange::All,
        after,
        most,
    })
}

fn continuation(kind: IdentityKind, scanned: &Scanned) -> Option<String> {
    match (kind, &scanned.through) {
        (IdentityKind::Devices, Some(through)) => Some(through.to_string()),
        (IdentityKind::Devices, None) => Some(MODULES.to_owned()),
        (IdentityKind::Modules, through) => through.as_ref().map(|through| format!("{MODULES}{through}")),
    }
}

fn show(identity: &IdentityId, chain: &ConnectionChain, authorities: &Authorities) -> Value {
    let ca = chain.issuers.last();
    let ca = authorities
        .iter()
        .find(|authority| Some(&authority.certificate.fingerprints().sha256) == ca);
    json!({
        "deviceId": identity.device.as_str(),
        "moduleId": identity.module.as_ref().map(ModuleId::as_str),
        "connected": chain.is_connected,
        "lastActivityTime": iso(chain.last_activity),
        "ca": ca.map(|ca| ca.name.as_str()),
        "issuers": chain.issuers.iter().map(|issuer| HEXUPPER.encode(issuer)).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continuation_leads_to_where_the_list_ended() {
        for (after, kind, through) in [
            ("", IdentityKind::Devices, None),
            ("dev-1", IdentityKind::Devices, Some("dev-1")),
            ("modules/", IdentityKind::Modules, None),
            ("modules", IdentityKind::Devices, Some("modules")),
            ("modules/dev-1/m", IdentityKind::Modules, Some("dev-1/m")),
        ] {
            let scan = scan(after, 7).unwrap();
            assert_eq!((scan.kind, scan.most), (kind, 7), "{after}");
            assert_eq!(scan.after.as_ref().map(ToString::to_string).as_deref(), through);
            if through.is_some() {
                let scanned = Scanned {
                    through: scan.after,
                    count: 7,
                };
                assert_eq!(continuation(kind, &scanned).as_deref(), Some(after));
            }
        }
        for after in ["a/b", "modules/x", "modules//m", "modules/a/b/c", " "] {
            assert!(scan(after, 1).is_err(), "{after}");
        }
        let end = Scanned {
            through: None,
            count: 3,
        };
        assert_eq!(continuation(IdentityKind::Devices, &end).as_deref(), Some("modules/"));
        assert_eq!(continuation(IdentityKind::Modules, &end), None);
    }
}
