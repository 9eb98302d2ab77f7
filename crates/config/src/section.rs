//! Sections of the configuration, and the macro that declares one.

use thiserror::Error;

use crate::value::Setting;

/// A well-formed value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{section}.{key}: {reason}")]
pub struct Invalid {
    /// The section.
    pub section: &'static str,
    /// The key inside the section.
    pub key: &'static str,
    /// The allowed values.
    pub reason: String,
}

impl Invalid {
    /// A value that cannot work, and the allowed ones.
    #[must_use]
    pub fn new(section: &'static str, key: &'static str, reason: impl Into<String>) -> Self {
        Self {
            section,
            key,
            reason: reason.into(),
        }
    }
}

/// One key of a section, with access to its value.
pub struct Key<'a> {
    /// Its section.
    pub section: &'static str,
    /// Its name inside the section.
    pub name: &'static str,
    /// The name that it had in the version before, which is still accepted.
    pub old_name: Option<&'static str>,
    /// Its meaning, in the lines of its doc comment.
    pub doc: &'static [&'static str],
    /// Its value.
    pub setting: &'a mut dyn Setting,
}

impl Key<'_> {
    /// `section.name`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// `section.old_name`.
    #[must_use]
    pub fn old_path(&self) -> Option<String> {
        self.old_name.map(|name| format!("{}.{name}", self.section))
    }

    /// Its meaning, in one line.
    #[must_use]
    pub fn meaning(&self) -> String {
        let mut meaning = prose(self.doc);
        if let Some(old) = self.old_name {
            meaning.push_str(&format!(" Formerly `{old}`."));
        }
        meaning
    }
}

/// The lines of a doc comment as one line.
#[must_use]
pub fn prose(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

/// A section: keys under one heading. [`section!`](crate::section!) implements it.
pub trait Section {
    /// The heading.
    fn name(&self) -> &'static str;
    /// Its content, in a sentence.
    fn about(&self) -> String;
    /// The keys, in the order of their declaration.
    fn keys(&mut self) -> Vec<Key<'_>>;
    /// Every value out of its range; when there is none, every relation between values that does not hold.
    fn problems(&self) -> Vec<Invalid>;

    /// Checks ranges and relations.
    ///
    /// # Errors
    /// The first value that cannot work.
    fn validate(&self) -> Result<(), Invalid> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }
}

/// A whole configuration.
pub trait Tree {
    /// Its sections, in the order in which they are shown; those of one name follow each other.
    fn sections(&mut self) -> Vec<&mut dyn Section>;
    /// The checks that span several sections.
    fn problems(&self) -> Vec<Invalid>;
}

/// Declares a section: a struct with its defaults, whose fields are keys and whose doc comments are the manual.
///
/// ```
/// use holdfast_config::Section as _;
/// use holdfast_model::ByteSize;
///
/// holdfast_config::section! {
///     /// How much is held in memory.
///     pub struct CacheConfig = "cache" {
///         /// Memory for entries.
///         pub memory was "ram": ByteSize = ByteSize::mib(8), in ByteSize(1).. => "must be greater than 0";
///         /// The largest entry.
///         pub max_entry: ByteSize = ByteSize::mib(1);
///     }
///     /// Fields that are no keys.
///     fixed {
///         /// Entries, at most.
///         pub entries: usize = 1000;
///     }
///     check |cache| {
///         cache.max_entry <= cache.memory => max_entry, "must not be larger than cache.memory";
///     }
/// }
///
/// assert_eq!(CacheConfig::default().keys().len(), 2);
/// let small = CacheConfig { memory: ByteSize(1), ..CacheConfig::default() };
/// assert_eq!(small.validate().unwrap_err().key, "max_entry");
/// ```
///
/// `was` gives the name that a key had in the version before; `in … =>` its range and the words of the refusal.
#[macro_export]
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $vis:vis struct $Name:ident = $section:literal {$(
            $(#[doc = $doc:literal])+
            $field_vis:vis $field:ident $(was $old:literal)?: $Type:ty = $default:expr
                $(, in $range:expr => $must:expr)?;
        )*}
        $($(#[doc = $fixed_about:literal])* fixed {$(
            $(#[doc = $fixed_doc:literal])+
            $fixed_vis:vis $fixed:ident: $FixedType:ty = $fixed_default:expr;
        )*})?
        $(check |$this:ident| {$( $ok:expr => $wrong:ident, $reason:expr; )*})?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        $vis struct $Name {
            $($(#[doc = $doc])+ $field_vis $field: $Type,)*
            $($($(#[doc = $fixed_doc])+ $fixed_vis $fixed: $FixedType,)*)?
        }

        impl Default for $Name {
            fn default() -> Self {
                Self { $($field: $default,)* $($($fixed: $fixed_default,)*)? }
            }
        }

        impl $crate::Section for $Name {
            fn name(&self) -> &'static str {
                $section
            }

            fn about(&self) -> String {
                $crate::prose(&[$($about),+])
            }

            fn keys(&mut self) -> Vec<$crate::Key<'_>> {
                vec![$($crate::Key {
                    section: $section,
                    name: stringify!($field),
                    old_name: [$($old)?].first().copied(),
                    doc: &[$($doc),+],
                    setting: &mut self.$field,
                }),*]
            }

            #[allow(unused_mut, reason = "not every section has a range")]
            fn problems(&self) -> Vec<$crate::Invalid> {
                let mut found = Vec::new();
                $($(if !($range).contains(&self.$field) {
                    found.push($crate::Invalid::new($section, stringify!($field), $must));
                })?)*
                $(if found.is_empty() {
                    let $this = self;
                    $(if !($ok) {
                        found.push($crate::Invalid::new($section, stringify!($wrong), $reason));
                    })*
                })?
                found
            }
        }
    };
}
