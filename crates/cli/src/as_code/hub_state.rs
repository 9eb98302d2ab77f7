//! Reads the document of a running hub.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_model::{ByteSize, HumanDuration};
use http::Method;
use serde_json::Value;

use super::document::{Ca, HubDocument, Policy, SavedQuery, Settings};
use crate::device::encode;
use crate::exit_code::{Failure, Outcome};
use crate::http::{Call, call};
use crate::hub::Hub;
use crate::{ca, consumer_group, policy, saved_query, settings};

/// Characters of a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;

pub(super) async fn read(hub: &Hub) -> Result<HubDocument, Failure> {
    let get = async |path: &str| call(hub, Call::new(Method::GET, path.to_owned())).await;
    let settings = get(settings::PATH).await?;
    let groups = get(consumer_group::PATH).await?;
    let policies = get(policy::PATH).await?;
    let cas = get(ca::PATH).await?;
    Ok(HubDocument {
        settings: Some(Settings {
            retention: Some(HumanDuration::secs(number(&settings, "retentionSeconds")?).to_string()),
            retention_size: Some(ByteSize(settings["retentionBytes"].as_u64().unwrap_or(0)).to_string()),
            max_identities: Some(number(&settings, "maxIdentities")?),
        }),
        consumer_groups: Some(
            list(&groups)?
                .iter()
                .map(|group| text(group, "/name"))
                .collect::<Result<_, _>>()?,
        ),
        policies: Some(
            list(&policies["value"])?
                .iter()
                .map(read_policy)
                .collect::<Result<_, _>>()?,
        ),
        cas: Some(list(&cas["value"])?.iter().map(read_ca).collect::<Result<_, _>>()?),
        saved_queries: Some(saved_queries(hub).await?),
    })
}

async fn saved_queries(hub: &Hub) -> Result<Vec<SavedQuery>, Failure> {
    let mut queries = Vec::new();
    let mut after = String::new();
    loop {
        let mut request = Call::new(Method::GET, saved_query::PATH.to_owned());
        request.query = &after;
        let answer = call(hub, request).await?;
        for query in list(&answer["queries"])? {
            queries.push(SavedQuery {
                name: text(query, "/name")?,
                query: text(query, "/query")?,
                description: query["description"].as_str().map(str::to_owned),
            });
        }
        match answer["continuation"].as_str() {
            Some(last) => after = format!("after={}", encode(last)),
            None => return Ok(queries),
        }
    }
}

fn read_policy(policy: &Value) -> Result<Policy, Failure> {
    let rights = text(policy, "/rights")?;
    Ok(Policy {
        name: text(policy, "/keyName")?,
        rights: rights.split(", ").map(str::to_owned).collect(),
    })
}

fn read_ca(ca: &Value) -> Result<Ca, Failure> {
    Ok(Ca {
        name: text(ca, "/name")?,
        certificate: pem(&text(ca, "/properties/certificate")?)?,
        verified: ca.pointer("/properties/isVerified") == Some(&Value::Bool(true)),
    })
}

/// A certificate in base64 of DER as PEM.
fn pem(base64: &str) -> Result<String, Failure> {
    let der = STANDARD.decode(base64).map_err(|_| unexpected("certificate"))?;
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    Ok(pem)
}

fn list(value: &Value) -> Result<&[Value], Failure> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| unexpected("list"))
}

fn text(value: &Value, pointer: &str) -> Result<String, Failure> {
    let text = value.pointer(pointer).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| unexpected(pointer))
}

fn number(value: &Value, name: &str) -> Result<u64, Failure> {
    value[name].as_u64().ok_or_else(|| unexpected(name))
}

fn unexpected(what: &str) -> Failure {
    let text = format!("the hub's answer has no {what} as this version knows it");
    Failure::new(Outcome::Failed, text).advise("use the command of the hub's own version")
}
