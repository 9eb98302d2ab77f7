//! What devices look at in messages that they receive (AMQP 1.0 part 3).

use anyhow::{Context as _, Result};

use super::value::{Value, Values};

const PROPERTIES: u64 = 0x73;
const DATA: u64 = 0x75;

/// The content of the first section with this descriptor.
fn section(message: &[u8], wanted: u64) -> Result<Option<&[u8]>> {
    let mut sections = Values(message);
    while !sections.is_empty() {
        if let Value::Described(code, content) = sections.next()?
            && code == wanted
        {
            return Ok(Some(content));
        }
    }
    Ok(None)
}

/// The value under `key` in the map of the section with this descriptor.
pub(crate) fn property<'a>(message: &'a [u8], wanted: u64, key: &str) -> Result<Option<Value<'a>>> {
    let Some(content) = section(message, wanted)? else {
        return Ok(None);
    };
    let Value::Items(_, bytes) = Values(content).next()? else {
        return Ok(None);
    };
    let mut entries = Values(bytes);
    while !entries.is_empty() {
        let (name, value) = (entries.next()?, entries.next()?);
        if name.text() == Some(key.as_bytes()) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The field with this index among the message's properties, as it is encoded; `None` when it is left out.
pub(crate) fn properties_field(message: &[u8], index: u32) -> Result<Option<&[u8]>> {
    let Some(content) = section(message, PROPERTIES)? else {
        return Ok(None);
    };
    let Value::Items(count, bytes) = Values(content).next()? else {
        return Ok(None);
    };
    let mut fields = Values(bytes);
    for _ in 0..index.min(count) {
        fields.next()?;
    }
    (index < count).then(|| fields.raw()).transpose()
}

/// The bytes of the data section.
pub(crate) fn data(message: &[u8]) -> Result<&[u8]> {
    let content = section(message, DATA)?.context("a message without a body")?;
    match Values(content).next()? {
        Value::Binary(bytes) => Ok(bytes),
        _ => anyhow::bail!("a body that is not binary"),
    }
}
