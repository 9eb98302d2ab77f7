//! The select list, and what it allows of groups.

use super::{FOREIGN, KEYWORDS, Parsed, Parser, is_one_of};
use crate::error::quoted;
use crate::lexer::Token;
use crate::{
    Aggregate, AggregateFunction, Column, Function, Output, Path, Position, QueryError, QueryErrorKind, Select,
};

/// A select list with the positions of its columns; without columns it is `*`.
pub(super) struct SelectList {
    start: Position,
    columns: Vec<(Position, Column)>,
}

impl SelectList {
    /// Compares the columns with the keys of GROUP BY. Plain columns beside an aggregate are keys by themselves where no
    /// GROUP BY names any: clients send that (Spec query-and-routing §2).
    pub(super) fn check_groups(&mut self, grouped: bool, group_by: &mut Vec<Path>) -> Parsed<()> {
        if self.columns.is_empty() && grouped {
            return Err(QueryError::new(self.start, QueryErrorKind::StarWithGroups));
        }
        let aggregates = self
            .columns
            .iter()
            .any(|(_, column)| matches!(column.output, Output::Aggregate(_)));
        for (position, column) in &self.columns {
            let Output::Path(path) = &column.output else { continue };
            if !(grouped || aggregates) || group_by.contains(path) {
                continue;
            }
            if grouped {
                let name = quoted(&path.to_string());
                return Err(QueryError::new(*position, QueryErrorKind::NotGrouped(name)));
            }
            group_by.push(path.clone());
        }
        Ok(())
    }

    pub(super) fn into_select(self) -> Select {
        if self.columns.is_empty() {
            return Select::All;
        }
        Select::Columns(self.columns.into_iter().map(|(_, column)| column).collect())
    }
}

impl Parser<'_> {
    pub(super) fn top(&mut self) -> Parsed<Option<u64>> {
        if !self.take_word("TOP") {
            return Ok(None);
        }
        let expected = "the number of results, a whole number";
        let Token::Number(text, _) = *self.peek() else {
            return Err(self.unexpected(expected));
        };
        let top = text.parse().map_err(|_| self.unexpected(expected))?;
        self.advance();
        Ok(Some(top))
    }

    pub(super) fn select_list(&mut self) -> Parsed<SelectList> {
        let mut list = SelectList {
            start: self.position(),
            columns: Vec::new(),
        };
        if self.take_symbol("*") {
            return Ok(list);
        }
        let mut unnamed = 0;
        loop {
            let position = self.position();
            let column = self.column(&mut unnamed)?;
            if list.columns.iter().any(|(_, other)| other.name == column.name) {
                let name = quoted(&column.name);
                return Err(QueryError::new(position, QueryErrorKind::DuplicateColumn(name)));
            }
            list.columns.push((position, column));
            if !self.take_symbol(",") {
                return Ok(list);
            }
        }
    }

    fn column(&mut self, unnamed: &mut u32) -> Parsed<Column> {
        let output = match self.called_name() {
            Some(name) => self.aggregate(name)?,
            None => Output::Path(self.path()?),
        };
        let alias = self.alias()?;
        let name = match (alias, &output) {
            (Some(alias), _) => alias,
            (None, Output::Path(path)) => path.name().to_owned(),
            (None, Output::Aggregate(_)) => {
                *unnamed += 1;
                format!("${unnamed}")
            }
        };
        Ok(Column { name, output })
    }

    fn aggregate(&mut self, name: &str) -> Parsed<Output> {
        let function = AggregateFunction::ALL
            .into_iter()
            .find(|function| function.name().eq_ignore_ascii_case(name));
        let Some(function) = function else {
            return Err(match Function::of_name(name) {
                Some(function) => QueryError::new(self.position(), QueryErrorKind::MisplacedFunction(function.name())),
                None => self.unknown_function(name),
            });
        };
        self.advance();
        self.advance();
        let argument = if function == AggregateFunction::Count {
            self.count_term()?;
            self.take_symbol("*");
            None
        } else {
            Some(self.path()?)
        };
        self.expect_symbol(")", ")")?;
        Ok(Output::Aggregate(Aggregate { function, argument }))
    }

    fn alias(&mut self) -> Parsed<Option<String>> {
        let explicit = self.take_word("AS");
        let alias = match *self.peek() {
            Token::Name(name) => Some(name),
            Token::Word(word) if !is_one_of(word, &KEYWORDS) && !is_one_of(word, &FOREIGN) => Some(word),
            _ => None,
        };
        match alias {
            Some(alias) => {
                self.advance();
                Ok(Some(alias.to_owned()))
            }
            None if explicit => Err(self.unexpected("a name (names that are keywords are written [[name]])")),
            None => Ok(None),
        }
    }
}
