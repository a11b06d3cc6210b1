//! The code map of ARCHITECTURE.md, and whether it and the tree say the same.
//!
//! The map is the first fenced block under the heading `## Code map`: one file or directory a line, indented by the
//! directory it lies in, then what it is for. A directory ends in `/` and may be a path. A line whose first word is
//! neither goes on with the text above.
//!
//! ```text
//! grayxdp/src/
//!   main.rs    parse, run, exit code
//!   decide/    pure
//!     judge.rs   samples to judgement
//! ```

use super::{Finding, MAP_FILE};

const HEADING: &str = "## Code map";

/// A file that the map names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) line: usize,
}

/// The files of the map, in its order.
pub(super) fn parse(text: &str) -> Vec<Entry> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let section = numbered.skip_while(|(_, line)| line.trim_end() != HEADING).skip(1);
    let block = section.skip_while(|(_, line)| !line.starts_with("```")).skip(1);
    let mut dirs: Vec<(usize, String)> = Vec::new();
    let mut entries = Vec::new();
    for (number, line) in block.take_while(|(_, line)| !line.starts_with("```")) {
        let Some(name) = line.split_whitespace().next() else { continue };
        if !name.ends_with('/') && !is_file_name(name) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        while dirs.last().is_some_and(|(outer, _)| *outer >= indent) {
            dirs.pop();
        }
        let path = format!("{}{name}", dirs.last().map_or("", |(_, dir)| dir));
        if name.ends_with('/') {
            dirs.push((indent, path));
        } else {
            entries.push(Entry { path, line: number });
        }
    }
    entries
}

/// `weight.rs`, `.ci/run` and `Cargo.toml` are; words, `e.g.` and patterns such as `*.json` are not.
fn is_file_name(word: &str) -> bool {
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    is_plain && word.contains(['.', '/']) && !word.ends_with('.')
}

/// Where the map and the tree differ.
pub(super) fn compare(map: &[Entry], rust_files: &[&str], exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    if map.is_empty() {
        return vec![Finding::new(MAP_FILE, 1, format!("has no fenced block under `{HEADING}`"))];
    }
    let mut findings = Vec::new();
    for (index, entry) in map.iter().enumerate() {
        if map[..index].iter().any(|other| other.path == entry.path) {
            findings.push(Finding::new(MAP_FILE, entry.line, format!("names {} twice", entry.path)));
        } else if !exists(&entry.path) {
            findings.push(Finding::new(MAP_FILE, entry.line, format!("names {}, which does not exist", entry.path)));
        }
    }
    for path in rust_files.iter().filter(|path| !map.iter().any(|entry| entry.path == **path)) {
        findings.push(Finding::new(
            path,
            1,
            format!("is not in the code map: add it to {MAP_FILE}, with what it is for"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title\n```\nnot.rs\n```\n## Code map\nWords.\n\n```text\na/src/     first, e.g.\n  lib.rs   one\n           \
                        more.about one\n  in/      inner\n    x.rs\n  z.rs\nb/\n  build.rs  two\n  data/\n    *.json\ntop.rs\n```\n\
                        ```\nlater.rs\n```\n";

    fn paths(text: &str) -> Vec<String> {
        parse(text).into_iter().map(|entry| entry.path).collect()
    }

    #[test]
    fn indentation_says_where_a_file_lies() {
        let text = TEXT.replace("more.about", "more about");
        assert_eq!(paths(&text), ["a/src/lib.rs", "a/src/in/x.rs", "a/src/z.rs", "b/build.rs", "top.rs"]);
        assert_eq!(parse(&text)[0].line, 10);
    }

    #[test]
    fn without_the_heading_there_is_no_map() {
        assert!(paths("## Other\n```\na.rs\n```\n").is_empty());
        assert_eq!(compare(&[], &["a.rs"], &|_| true).len(), 1);
    }

    #[test]
    fn words_are_no_file_names() {
        for (word, expected) in [
            ("weight.rs", true),
            (".ci/run", true),
            ("e.g.", false),
            ("*.json", false),
            ("pure;", false),
            ("one", false),
        ] {
            assert_eq!(is_file_name(word), expected, "{word}");
        }
    }

    #[test]
    fn each_difference_is_found() {
        let entry = |path: &str, line| Entry { path: path.to_owned(), line };
        let map = [entry("a.rs", 3), entry("gone.rs", 4), entry("a.rs", 5)];
        let findings = compare(&map, &["a.rs", "new.rs"], &|path| path != "gone.rs");
        let places: Vec<(&str, usize)> = findings.iter().map(|f| (f.path.as_str(), f.line)).collect();
        assert_eq!(places, [(MAP_FILE, 4), (MAP_FILE, 5), ("new.rs", 1)]);
    }
}
