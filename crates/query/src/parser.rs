//! Tokens to a query (Spec query-and-routing §3).
//!
//! Invariants: the parser recurses at most [`MAX_NESTING`] times through an expression; lists and chains are loops; what it
//! returns needs no further check.

mod expression;
mod select;

use crate::lexer::{Token, tokens};
use crate::limits::{MAX_NESTING, MAX_TERMS};
use crate::{Collection, Field, Path, Position, Query, QueryError, QueryErrorKind, Root, Segment};

/// Words with a meaning in the grammar. A name at the root of a path must be written `[[word]]` if it is one of them.
const KEYWORDS: [&str; 16] = [
    "SELECT",
    "TOP",
    "FROM",
    "WHERE",
    "GROUP",
    "BY",
    "AS",
    "AND",
    "OR",
    "NOT",
    "IN",
    "NIN",
    "TRUE",
    "FALSE",
    "NULL",
    "UNDEFINED",
];

/// Words of SQL that people try, and that the language does not have.
const FOREIGN: [&str; 10] = [
    "ORDER", "JOIN", "DISTINCT", "HAVING", "LIKE", "BETWEEN", "OFFSET", "LIMIT", "UNION", "EXISTS",
];

struct Parser<'a> {
    tokens: Vec<(Token<'a>, Position)>,
    next: usize,
    depth: usize,
    terms: usize,
}

type Parsed<T> = Result<T, QueryError>;

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// The first defect, with its position.
    pub fn parse(text: &str) -> Result<Query, QueryError> {
        let mut parser = Parser {
            tokens: tokens(text)?,
            next: 0,
            depth: 0,
            terms: 0,
        };
        parser.query()
    }
}

impl Path {
    /// Reads a path, such as `tags.site` or `properties.reported.[[fw-version]]`.
    ///
    /// # Errors
    /// The first defect, with its position.
    pub fn parse(text: &str) -> Result<Path, QueryError> {
        let mut parser = Parser {
            tokens: tokens(text)?,
            next: 0,
            depth: 0,
            terms: 0,
        };
        let path = parser.path()?;
        match parser.peek() {
            Token::End => Ok(path),
            _ => Err(parser.unexpected("the end of the path")),
        }
    }
}

impl<'a> Parser<'a> {
    fn query(&mut self) -> Parsed<Query> {
        self.expect_word("SELECT", "SELECT")?;
        let top = self.top()?;
        let mut list = self.select_list()?;
        self.expect_word("FROM", "a comma or FROM")?;
        let collection = self.collection()?;
        let condition = match self.take_word("WHERE") {
            true => Some(self.expression()?),
            false => None,
        };
        let grouped = self.take_word("GROUP");
        let mut group_by = Vec::new();
        if grouped {
            self.expect_word("BY", "BY")?;
            group_by.push(self.path()?);
            while self.take_symbol(",") {
                group_by.push(self.path()?);
            }
        }
        if *self.peek() != Token::End {
            let expected = match (grouped, condition.is_some()) {
                (true, _) => "a comma or the end of the query",
                (false, true) => "an operator, GROUP BY or the end of the query",
                (false, false) => "WHERE, GROUP BY or the end of the query",
            };
            return Err(self.unexpected(expected));
        }
        list.check_groups(grouped, &mut group_by)?;
        Ok(Query {
            collection,
            top,
            select: list.into_select(),
            condition,
            group_by,
        })
    }

    fn collection(&mut self) -> Parsed<Collection> {
        let position = self.position();
        let Token::Word(first) = *self.peek() else {
            return Err(self.unexpected("a collection: devices or devices.modules"));
        };
        self.advance();
        let mut name = first.to_owned();
        if self.take_symbol(".") {
            let Token::Word(second) = *self.peek() else {
                return Err(self.unexpected("modules or jobs"));
            };
            self.advance();
            name = format!("{first}.{second}");
        }
        match name.to_ascii_lowercase().as_str() {
            "devices" => Ok(Collection::Devices),
            "devices.modules" => Ok(Collection::Modules),
            "devices.jobs" => Err(QueryError::new(position, QueryErrorKind::Jobs)),
            _ => {
                let name = crate::error::quoted(&name);
                Err(QueryError::new(position, QueryErrorKind::Collection(name)))
            }
        }
    }

    /// A path, its optional prefix with the name of the collection removed.
    fn path(&mut self) -> Parsed<Path> {
        self.count_term()?;
        let (first, plain) = match *self.peek() {
            Token::Word(word) if is_one_of(word, &FOREIGN) => return Err(self.foreign(word)),
            Token::Word(word) if !is_one_of(word, &KEYWORDS) => (word, true),
            Token::Name(name) => (name, false),
            _ => return Err(self.unexpected("a path (names that are keywords are written [[name]])")),
        };
        self.advance();
        let mut rest = Vec::new();
        loop {
            if self.take_symbol(".") {
                let (Token::Word(key) | Token::Name(key)) = *self.peek() else {
                    return Err(self.unexpected("a name (with other characters it is written [[name]])"));
                };
                self.advance();
                rest.push(Segment::Key(key.to_owned()));
            } else if self.take_symbol("[") {
                rest.push(Segment::Index(self.index()?));
                self.expect_symbol("]", "]")?;
            } else {
                break;
            }
        }
        let key = |index: usize| match rest.get(index) {
            Some(Segment::Key(key)) => Some(key.as_str()),
            _ => None,
        };
        // `modules` and `jobs` are no properties of devices, so that they can only be the rest of the prefix.
        let (root, skipped) = match (key(0), key(1)) {
            _ if !plain || !first.eq_ignore_ascii_case("devices") => (first, 0),
            (Some(part), Some(name)) if is_one_of(part, &["modules", "jobs"]) => (name, 2),
            (Some(name), _) => (name, 1),
            (None, _) => (first, 0),
        };
        let root = match Field::of_name(root) {
            Some(field) => Root::Field(field),
            None => Root::Unknown(root.to_owned()),
        };
        rest.drain(..skipped);
        Ok(Path { root, rest })
    }

    /// A whole number that is written in digits.
    fn index(&mut self) -> Parsed<usize> {
        let Token::Number(text, _) = *self.peek() else {
            return Err(self.unexpected("the number of an element, from 0"));
        };
        let Ok(index) = text.parse() else {
            return Err(self.unexpected("the number of an element, from 0"));
        };
        self.advance();
        Ok(index)
    }

    fn count_term(&mut self) -> Parsed<()> {
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(QueryError::new(self.position(), QueryErrorKind::TooManyTerms));
        }
        Ok(())
    }

    /// Runs `inner` one level deeper.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(QueryError::new(self.position(), QueryErrorKind::TooDeep));
        }
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// The next token. There always is one: nothing advances beyond [`Token::End`].
    fn peek(&self) -> &Token<'a> {
        self.tokens.get(self.next).map_or(&Token::End, |(token, _)| token)
    }

    fn position(&self) -> Position {
        self.tokens
            .get(self.next)
            .map_or(Position::START, |(_, position)| *position)
    }

    fn advance(&mut self) {
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
    }

    fn at_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(found) if found.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        if found {
            self.advance();
        }
        found
    }

    fn expect_word(&mut self, word: &str, expected: &'static str) -> Parsed<()> {
        if self.take_word(word) {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        if found {
            self.advance();
        }
        found
    }

    fn expect_symbol(&mut self, symbol: &str, expected: &'static str) -> Parsed<()> {
        if self.take_symbol(symbol) {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    /// The error for the next token.
    fn unexpected(&self, expected: &'static str) -> QueryError {
        match self.peek() {
            Token::Word(word) if is_one_of(word, &FOREIGN) => self.foreign(word),
            token => QueryError::new(
                self.position(),
                QueryErrorKind::Unexpected {
                    found: token.found(),
                    expected,
                },
            ),
        }
    }

    fn foreign(&self, word: &str) -> QueryError {
        QueryError::new(
            self.position(),
            QueryErrorKind::NotInLanguage(word.to_ascii_uppercase()),
        )
    }
}

fn is_one_of(word: &str, list: &[&str]) -> bool {
    list.iter().any(|other| other.eq_ignore_ascii_case(word))
}
