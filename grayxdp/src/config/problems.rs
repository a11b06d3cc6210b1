//! What is wrong with a config file: found one by one, reported together.

use std::{cell::RefCell, fmt, ops::Range, sync::Arc};

use miette::{Diagnostic, NamedSource, SourceSpan};
use serde::Serialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// All errors of one config file, in the order of the text; at least one.
#[derive(Clone, Debug, Diagnostic)]
pub struct ConfigErrors {
    file_name: String,
    #[related]
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// The errors, in the order of the text.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    /// One line for each error: file, line, column, what is wrong, what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let ConfigError { message, line, column, help, .. } = error;
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{line}:{column}: {message}; {help}", self.file_name)?;
        }
        Ok(())
    }
}

/// One error of a config file.
#[derive(Clone, Debug, Diagnostic, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// What is wrong: what was expected, and what was found.
    pub message: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What to do.
    #[help]
    pub help: String,
    #[label("here")]
    #[serde(skip)]
    span: SourceSpan,
    #[source_code]
    #[serde(skip)]
    source_code: Arc<NamedSource<String>>,
}

/// Collects problems while a text is read.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: RefCell<Vec<Problem>>,
}

struct Problem {
    span: Range<usize>,
    message: String,
    help: String,
}

impl<'a> Problems<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, found: RefCell::new(Vec::new()) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    pub(super) fn note(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.found.borrow_mut().push(Problem { span, message: message.into(), help: help.into() });
    }

    /// The document, if the text is TOML at all: every later error would only follow from those of the syntax.
    pub(super) fn parse(&self) -> Option<Spanned<DeValue<'a>>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        if errors.is_empty() {
            return Some(Spanned::new(table.span(), DeValue::Table(table.into_inner())));
        }
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            self.note(
                span,
                format!("this is not valid TOML: {}", error.message()),
                "see https://toml.io for the syntax",
            );
        }
        None
    }

    /// The text at a place, shortened, as it is quoted in a message.
    pub(super) fn quote(&self, span: Range<usize>) -> String {
        const CHARS_MAX: usize = 40;
        let text = self.text.get(span).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let mut short: String = line.chars().take(CHARS_MAX).collect();
        if short.len() < text.len() {
            short.push('…');
        }
        format!("`{short}`")
    }

    pub(super) fn into_errors(self, file_name: &str) -> ConfigErrors {
        let source = Arc::new(NamedSource::new(file_name, self.text.to_owned()));
        let mut found = self.found.into_inner();
        found.sort_by_key(|problem| problem.span.start);
        let error = |Problem { span, message, help }: Problem| {
            let before = self.text.get(..span.start).unwrap_or(self.text);
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            ConfigError {
                message,
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                help,
                span: span.into(),
                source_code: Arc::clone(&source),
            }
        };
        ConfigErrors { file_name: file_name.to_owned(), errors: found.into_iter().map(error).collect() }
    }
}
