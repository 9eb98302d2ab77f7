//! Conditions: one function for each level of the grammar.

use super::{Parsed, Parser};
use crate::error::quoted;
use crate::lexer::Token;
use crate::{
    AggregateFunction, ArithmeticOperator, CompareOperator, Constant, Expr, Function, QueryError, QueryErrorKind,
};

impl<'a> Parser<'a> {
    /// `or`
    pub(super) fn expression(&mut self) -> Parsed<Expr> {
        self.chain("OR", Self::and, Expr::Or)
    }

    fn and(&mut self) -> Parsed<Expr> {
        self.chain("AND", Self::not, Expr::And)
    }

    fn chain(
        &mut self,
        word: &str,
        operand: fn(&mut Self) -> Parsed<Expr>,
        make: fn(Vec<Expr>) -> Expr,
    ) -> Parsed<Expr> {
        let first = operand(self)?;
        if !self.at_word(word) {
            return Ok(first);
        }
        let mut list = vec![first];
        while self.take_word(word) {
            list.push(operand(self)?);
        }
        Ok(make(list))
    }

    fn not(&mut self) -> Parsed<Expr> {
        if !self.take_word("NOT") {
            return self.comparison();
        }
        let inner = self.nested(Self::not)?;
        Ok(Expr::Not(Box::new(inner)))
    }

    fn comparison(&mut self) -> Parsed<Expr> {
        let left = self.sum()?;
        let negated = self.at_word("NIN") || self.at_word("NOT");
        if negated || self.at_word("IN") {
            if self.take_word("NOT") {
                self.expect_word("IN", "IN")?;
            } else {
                self.advance();
            }
            self.expect_symbol("[", "a list of constants: [a, b]")?;
            return Ok(Expr::In {
                value: Box::new(left),
                list: self.constants()?,
                negated,
            });
        }
        let Token::Symbol(symbol) = *self.peek() else {
            return Ok(left);
        };
        let operator = match symbol {
            "=" => CompareOperator::Equal,
            "!=" | "<>" => CompareOperator::NotEqual,
            "<" => CompareOperator::Less,
            "<=" => CompareOperator::LessOrEqual,
            ">" => CompareOperator::Greater,
            ">=" => CompareOperator::GreaterOrEqual,
            _ => return Ok(left),
        };
        self.advance();
        let right = self.sum()?;
        Ok(Expr::Compare(operator, Box::new(left), Box::new(right)))
    }

    fn sum(&mut self) -> Parsed<Expr> {
        let operators = [("+", ArithmeticOperator::Add), ("-", ArithmeticOperator::Subtract)];
        self.arithmetic(&operators, Self::product)
    }

    fn product(&mut self) -> Parsed<Expr> {
        let operators = [
            ("*", ArithmeticOperator::Multiply),
            ("/", ArithmeticOperator::Divide),
            ("%", ArithmeticOperator::Remainder),
        ];
        self.arithmetic(&operators, Self::sign)
    }

    fn arithmetic(
        &mut self,
        operators: &[(&str, ArithmeticOperator)],
        operand: fn(&mut Self) -> Parsed<Expr>,
    ) -> Parsed<Expr> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some((_, operator)) = operators.iter().find(|(symbol, _)| self.take_symbol(symbol)) {
            rest.push((*operator, operand(self)?));
        }
        if rest.is_empty() {
            Ok(first)
        } else {
            Ok(Expr::Arithmetic(Box::new(first), rest))
        }
    }

    fn sign(&mut self) -> Parsed<Expr> {
        if !self.take_symbol("-") {
            return self.primary();
        }
        if let Token::Number(_, number) = *self.peek() {
            self.count_term()?;
            self.advance();
            return Ok(Expr::Constant(Constant::Number(-number)));
        }
        let inner = self.nested(Self::sign)?;
        Ok(Expr::Negate(Box::new(inner)))
    }

    fn primary(&mut self) -> Parsed<Expr> {
        if self.take_symbol("(") {
            let inner = self.nested(Self::expression)?;
            self.expect_symbol(")", "an operator or )")?;
            return Ok(inner);
        }
        if self.take_symbol("[") {
            return Ok(Expr::Array(self.constants()?));
        }
        if let Some(constant) = self.constant()? {
            return Ok(Expr::Constant(constant));
        }
        if let Some(name) = self.called_name() {
            return self.call(name);
        }
        match self.peek() {
            Token::Word(_) | Token::Name(_) => Ok(Expr::Path(self.path()?)),
            _ => Err(self.unexpected("a constant, a path, a function or (")),
        }
    }

    fn call(&mut self, name: &str) -> Parsed<Expr> {
        let position = self.position();
        let aggregate = AggregateFunction::ALL
            .into_iter()
            .find(|function| function.name().eq_ignore_ascii_case(name));
        if let Some(aggregate) = aggregate {
            return Err(QueryError::new(
                position,
                QueryErrorKind::MisplacedAggregate(aggregate.name()),
            ));
        }
        let Some(function) = Function::of_name(name) else {
            return Err(self.unknown_function(name));
        };
        self.count_term()?;
        self.advance();
        self.advance();
        let mut arguments = Vec::new();
        if !self.take_symbol(")") {
            loop {
                arguments.push(self.nested(Self::expression)?);
                if !self.take_symbol(",") {
                    break;
                }
            }
            self.expect_symbol(")", "an operator, a comma or )")?;
        }
        let (least, most, takes) = function.arity();
        if !(least..=most).contains(&arguments.len()) {
            let kind = QueryErrorKind::Arguments {
                function: function.name(),
                takes,
                found: arguments.len(),
            };
            return Err(QueryError::new(position, kind));
        }
        Ok(Expr::Call(function, arguments))
    }

    /// The next word if a `(` follows.
    pub(super) fn called_name(&self) -> Option<&'a str> {
        let Token::Word(name) = *self.peek() else { return None };
        match self.tokens.get(self.next + 1) {
            Some((Token::Symbol("("), _)) => Some(name),
            _ => None,
        }
    }

    pub(super) fn unknown_function(&self, name: &str) -> QueryError {
        if super::is_one_of(name, &super::KEYWORDS) || super::is_one_of(name, &super::FOREIGN) {
            return self.unexpected("a constant, a path, a function or (");
        }
        let kind = QueryErrorKind::UnknownFunction {
            name: quoted(name),
            hint: Function::like(name),
        };
        QueryError::new(self.position(), kind)
    }

    /// The rest of `[a, b]` after the bracket.
    fn constants(&mut self) -> Parsed<Vec<Constant>> {
        let mut list = Vec::new();
        if self.take_symbol("]") {
            return Ok(list);
        }
        loop {
            let negative = self.take_symbol("-");
            let constant = match self.constant()? {
                Some(Constant::Number(number)) if negative => Constant::Number(-number),
                Some(constant) if !negative => constant,
                _ => return Err(self.unexpected("a constant")),
            };
            list.push(constant);
            if !self.take_symbol(",") {
                break;
            }
        }
        self.expect_symbol("]", "a comma or ]")?;
        Ok(list)
    }

    fn constant(&mut self) -> Parsed<Option<Constant>> {
        let constant = match self.peek() {
            Token::Number(_, number) => Constant::Number(*number),
            Token::String(text) => Constant::String(text.clone()),
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Constant::Bool(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Constant::Bool(false),
            Token::Word(word) if word.eq_ignore_ascii_case("null") => Constant::Null,
            Token::Word(word) if word.eq_ignore_ascii_case("undefined") => Constant::Undefined,
            _ => return Ok(None),
        };
        self.count_term()?;
        self.advance();
        Ok(Some(constant))
    }
}
