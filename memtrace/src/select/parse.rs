//! The grammar of conditions.

use std::str::FromStr;

use super::{
    ParseSelectError,
    condition::{Condition, Term},
    words,
};

/// How many `!` and `(` may be open at a place, so that no text overflows the stack.
const MAX_DEPTH: usize = 100;

impl FromStr for Condition {
    type Err = ParseSelectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let term = parser.any()?;
        if parser.rest().is_empty() {
            Ok(Self(term))
        } else {
            Err(parser.error("'&', '|' or the end is expected"))
        }
    }
}

/// A text of which everything before byte `at` is read.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Parsed = Result<Term, ParseSelectError>;

impl<'a> Parser<'a> {
    /// Terms with `|` between them.
    fn any(&mut self) -> Parsed {
        self.list('|', Self::all, Term::Any)
    }

    /// Terms with `&` between them.
    fn all(&mut self) -> Parsed {
        self.list('&', Self::inner, Term::All)
    }

    /// One term, or several with `operator`, once or twice, between them.
    fn list(
        &mut self,
        operator: char,
        term: fn(&mut Self) -> Parsed,
        joined: fn(Vec<Term>) -> Term,
    ) -> Parsed {
        let mut terms = vec![term(self)?];
        while self.takes(operator) {
            if self.text[self.at..].starts_with(operator) {
                self.at += operator.len_utf8();
            }
            terms.push(term(self)?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { joined(terms) })
    }

    /// A word, or what follows `!`, or what is in parentheses.
    fn inner(&mut self) -> Parsed {
        if self.takes('!') {
            let term = self.deeper(Self::inner)?;
            return Ok(Term::Not(Box::new(term)));
        }
        if self.takes('(') {
            let term = self.deeper(Self::any)?;
            return if self.takes(')') { Ok(term) } else { Err(self.error("'&', '|' or ')' is expected")) };
        }
        self.word()
    }

    /// What `term` reads, one level deeper.
    fn deeper(&mut self, term: fn(&mut Self) -> Parsed) -> Parsed {
        if self.depth == MAX_DEPTH {
            return Err(self.error(&format!("more than {MAX_DEPTH} '!' and '(' are open")));
        }
        self.depth += 1;
        let term = term(self)?;
        self.depth -= 1;
        Ok(term)
    }

    /// A category or a flag.
    fn word(&mut self) -> Parsed {
        let rest = self.rest();
        let is_end = |c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-' | ':');
        let word = &rest[..rest.find(is_end).unwrap_or(rest.len())];
        if word.is_empty() {
            return Err(self.error("a word, '!' or '(' is expected"));
        }
        let flag = |name| words::flag(name).map(Term::Flag);
        let term = match word.strip_prefix("kpf:") {
            Some(name) => flag(name).ok_or_else(|| words::unknown_flag(name)),
            None => words::category(word)
                .map(Term::Category)
                .or_else(|| flag(word))
                .ok_or_else(|| words::unknown(word)),
        }
        .map_err(|problem| self.error(&problem))?;
        self.at += word.len();
        Ok(term)
    }

    /// Whether `c` comes next; if so, it is read.
    fn takes(&mut self, c: char) -> bool {
        let is_next = self.rest().starts_with(c);
        if is_next {
            self.at += c.len_utf8();
        }
        is_next
    }

    /// What comes after blanks, which are read.
    fn rest(&mut self) -> &'a str {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest
    }

    fn error(&self, problem: &str) -> ParseSelectError {
        ParseSelectError::new(problem, self.text, self.at)
    }
}
