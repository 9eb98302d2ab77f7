//! The XML of answers, and of the one request that has a body of it: a list of blocks.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_model::limits::MAX_BLOB_BLOCKS;

use crate::store::BlockKind;

/// An element while it is written: text is escaped, names are ours or checked.
pub(crate) struct Element {
    text: String,
    open: Vec<String>,
}

impl Element {
    /// A document with this root.
    pub(crate) fn document(root: &str) -> Self {
        Self::with_attributes(root, &[])
    }

    pub(crate) fn with_attributes(root: &str, attributes: &[(&str, &str)]) -> Self {
        let mut text = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><{root}");
        for (name, value) in attributes {
            // Writing to a String cannot fail.
            let _ = write!(text, " {name}=\"");
            escape(&mut text, value);
            text.push('"');
        }
        text.push('>');
        Self {
            text,
            open: vec![root.to_owned()],
        }
    }

    /// `<name>value</name>`.
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        let _ = write!(self.text, "<{name}>");
        escape(&mut self.text, value);
        let _ = write!(self.text, "</{name}>");
    }

    pub(crate) fn begin(&mut self, name: &str) {
        let _ = write!(self.text, "<{name}>");
        self.open.push(name.to_owned());
    }

    pub(crate) fn end(&mut self) {
        if let Some(name) = self.open.pop() {
            let _ = write!(self.text, "</{name}>");
        }
    }

    pub(crate) fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.end();
        }
        self.text
    }
}

fn escape(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML 1.0 has no others.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

/// Reads `<BlockList>` with `Latest`, `Committed` and `Uncommitted`, each the base64 of an id. Nothing else of XML is accepted: no
/// document type, entity, comment or attribute.
pub(crate) fn block_list(body: &[u8]) -> Option<Vec<(BlockKind, Vec<u8>)>> {
    let text = std::str::from_utf8(body).ok()?;
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    if let Some(declaration) = rest.strip_prefix("<?xml") {
        rest = declaration.split_once("?>")?.1.trim_start();
    }
    if matches!(rest, "<BlockList/>" | "<BlockList />") {
        return Some(Vec::new());
    }
    rest = rest.strip_prefix("<BlockList>")?.strip_suffix("</BlockList>")?.trim();
    let mut list = Vec::new();
    while !rest.is_empty() {
        let (name, behind) = rest.strip_prefix('<')?.split_once('>')?;
        let kind = match name {
            "Latest" => BlockKind::Latest,
            "Committed" => BlockKind::Committed,
            "Uncommitted" => BlockKind::Uncommitted,
            _ => return None,
        };
        let (id, behind) = behind.split_once("</")?;
        rest = behind.strip_prefix(name)?.strip_prefix('>')?.trim_start();
        if list.len() >= MAX_BLOB_BLOCKS {
            return None;
        }
        list.push((kind, STANDARD.decode(id.trim()).ok()?));
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        let mut error = Element::with_attributes("Error", &[("a", "\"<")]);
        error.text("Code", "a<b>&\"c\"\0");
        error.begin("In");
        error.text("X", "");
        let expected = "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error a=\"&quot;&lt;\"><Code>a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}</Code>\
                        <In><X></X></In></Error>";
        assert_eq!(error.finish(), expected);
    }

    #[test]
    fn a_list_of_blocks_is_read_and_nothing_else_is() {
        let list = "\u{feff}<?xml version='1.0' encoding='utf-8'?>\n<BlockList><Latest>QQ==</Latest>\n <Committed> QUE= </Committed>\
                    <Uncommitted>QUI=</Uncommitted></BlockList>\n";
        let expected = vec![
            (BlockKind::Latest, b"A".to_vec()),
            (BlockKind::Committed, b"AA".to_vec()),
            (BlockKind::Uncommitted, b"AB".to_vec()),
        ];
        assert_eq!(block_list(list.as_bytes()), Some(expected));
        assert_eq!(block_list(b"<BlockList/>"), Some(vec![]));
        assert_eq!(block_list(b"<BlockList></BlockList>"), Some(vec![]));
        for bad in [
            "",
            "<BlockList>",
            "<BlockList><Latest>QQ==</Committed></BlockList>",
            "<BlockList><Latest>?</Latest></BlockList>",
            "<BlockList><Latest>QQ==</Latest>x</BlockList>",
            "<BlockList><Latest a='b'>QQ==</Latest></BlockList>",
            "<!DOCTYPE x [<!ENTITY a 'b'>]><BlockList><Latest>&a;</Latest></BlockList>",
            "<BlockList><!-- --></BlockList>",
            "<Other></Other>",
        ] {
            assert_eq!(block_list(bad.as_bytes()), None, "{bad}");
        }
        let many = format!(
            "<BlockList>{}</BlockList>",
            "<Latest>QQ==</Latest>".repeat(MAX_BLOB_BLOCKS + 1)
        );
        assert_eq!(block_list(many.as_bytes()), None);
    }
}
