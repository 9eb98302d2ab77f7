//! The declared indexes: paths to values of tags and properties.

use holdfast_query::{Field, Path, Root, Segment};

/// The most indexes: each change of a twin writes to those whose value it changes.
const MAX_INDEXES: usize = 16;

/// The most characters of a path.
const MAX_PATH_CHARACTERS: usize = 512;

/// The declared indexes, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TwinIndexes {
    paths: Vec<Path>,
}

/// Why the declaration cannot be used, in words that follow the name of its key.
pub(crate) fn problem(declared: &[String]) -> Option<String> {
    TwinIndexes::parse(declared).err()
}

impl TwinIndexes {
    /// Reads a declaration that [`problem`] has accepted; of another one, none.
    pub(crate) fn of(declared: &[String]) -> Self {
        Self::parse(declared).unwrap_or_default()
    }

    fn parse(declared: &[String]) -> Result<Self, String> {
        if declared.len() > MAX_INDEXES {
            return Err(format!(
                "must have at most {MAX_INDEXES} paths, found {}",
                declared.len()
            ));
        }
        let mut paths = Vec::new();
        for text in declared {
            let path = parse(text)?;
            if paths.contains(&path) {
                return Err(format!("must name each path once, found {text} twice"));
            }
            paths.push(path);
        }
        Ok(Self { paths })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    pub(super) fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// The name of the index of a path, if it is declared.
    pub(super) fn name_of(&self, path: &Path) -> Option<String> {
        self.paths.contains(path).then(|| path.to_string())
    }
}

fn parse(text: &str) -> Result<Path, String> {
    if text.chars().count() > MAX_PATH_CHARACTERS {
        return Err(format!("must have paths of at most {MAX_PATH_CHARACTERS} characters"));
    }
    let path = Path::parse(text).map_err(|error| format!("must be a list of paths; {text:?}: {error}"))?;
    let key = |segment: Option<&Segment>| match segment {
        Some(Segment::Key(key)) => Some(key.clone()),
        Some(Segment::Index(_)) | None => None,
    };
    let first = key(path.rest.first());
    let is_value = match path.root {
        Root::Field(Field::Tags) => first.is_some(),
        Root::Field(Field::Properties) => {
            matches!(first.as_deref(), Some("desired" | "reported")) && path.rest.len() > 1
        }
        _ => false,
    };
    if !is_value {
        return Err(format!(
            "must be a list of paths below tags, properties.desired or properties.reported, found {text}"
        ));
    }
    let is_own = |segment: &Segment| matches!(segment, Segment::Key(key) if key.starts_with('$'));
    if path.rest.iter().any(is_own) {
        return Err(format!("must not have paths of metadata, found {text}"));
    }
    Ok(path)
}
