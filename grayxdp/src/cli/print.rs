//! Printing: to a stream that may be a closed pipe, which is no error. Decides nothing.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write},
};

use miette::{GraphicalReportHandler, GraphicalTheme};
use serde::Serialize;

use super::error::CliError;
use crate::config::ConfigErrors;

/// Prints a text as it is.
pub(crate) fn text(text: &str) -> Result<(), CliError> {
    unless_broken_pipe(write_to(&mut io::stdout().lock(), text)).map_err(CliError::Print)
}

/// Prints one of many texts; says whether anybody reads on.
pub(crate) fn part(text: &str) -> Result<bool, CliError> {
    match write_to(&mut io::stdout().lock(), text) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::Print(error)),
    }
}

/// Prints one JSON value on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CliError> {
    let mut line = serde_json::to_string(value).map_err(|error| CliError::Print(error.into()))?;
    line.push('\n');
    text(&line)
}

/// Prints to the error stream; what cannot be printed there has no other place.
pub(crate) fn complaint(complaint: &str) {
    drop(write_to(&mut io::stderr().lock(), complaint));
}

fn write_to(stream: &mut impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

fn unless_broken_pipe(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// The errors of a config file with the lines that they are in.
pub(crate) fn config_errors(errors: &ConfigErrors) -> String {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(100);
    let mut report = String::new();
    for error in errors.errors() {
        // Only the formatter of an error could fail, and ours do not.
        let _ = handler.render_report(&mut report, error);
        report.push('\n');
    }
    let count = errors.errors().len();
    let _ = writeln!(report, "{count} error{} in the config", if count == 1 { "" } else { "s" });
    report
}

/// How a column of a table is aligned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// A table whose columns are as wide as their widest cell, two spaces apart.
pub(crate) fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&header).chain(rows).collect();
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(columns).zip(&widths).map(|((cell, (_, align)), &width)| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        let joined = cells.collect::<Vec<_>>().join("  ");
        text.push_str(joined.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed(io::ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_a_broken_pipe_is_no_error() {
        for (kind, good) in [(io::ErrorKind::BrokenPipe, true), (io::ErrorKind::StorageFull, false)] {
            assert_eq!(unless_broken_pipe(write_to(&mut Closed(kind), "x")).is_ok(), good, "{kind}");
        }
    }

    #[test]
    fn numbers_stand_under_each_other() {
        let rows = [vec!["web".to_owned(), "12.50 %".to_owned()], vec!["a-long-name".to_owned(), "0.01 %".to_owned()]];
        let found = table(&[("SERVICE", Align::Left), ("WEIGHT", Align::Right)], &rows);
        assert_eq!(found, "SERVICE       WEIGHT\nweb          12.50 %\na-long-name   0.01 %\n");
    }
}
