//! `initialTwin` of enrollments and of webhooks' answers (Spec provisioning §9.2).

use holdfast_device_hub::{SectionName, check_section};
use holdfast_registry::TwinSeed;
use serde_json::{Map, Value};

/// Members that SDKs write among the content of a twin's collections, where they are no content.
const COLLECTION_MEMBERS: [&str; 5] = ["version", "count", "metadata", "$version", "$metadata"];

/// Reads the content of a twin; names of members are found in any case.
///
/// # Errors
/// For people: what is wrong.
pub fn read_initial_twin(twin: &Map<String, Value>) -> Result<TwinSeed, String> {
    let desired = match member(twin, "properties") {
        None | Some(Value::Null) => None,
        Some(Value::Object(properties)) => section(SectionName::Desired, member(properties, "desired"))?,
        Some(_) => return Err("initialTwin.properties must be an object".to_owned()),
    };
    Ok(TwinSeed {
        tags: section(SectionName::Tags, member(twin, "tags"))?,
        desired,
        reported: None,
    })
}

/// A member by its name in any case.
pub(crate) fn member<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// The text of a section of the twin, without what is no content; `None` for an empty one.
fn section(name: SectionName, value: Option<&Value>) -> Result<Option<String>, String> {
    let members = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(format!("initialTwin.{} must be an object", name.path())),
    };
    let content: Map<String, Value> = members
        .iter()
        .filter(|(key, _)| !COLLECTION_MEMBERS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if content.is_empty() {
        return Ok(None);
    }
    let text = Value::Object(content).to_string();
    check_section(name, &text).map_err(|error| format!("initialTwin: {error}"))?;
    Ok(Some(text))
}
