//! The full paths that a file names: `use` declarations taken apart, and what they are short for put in.

use std::collections::HashMap;

/// A path such as `std::time::Instant`; one that ends in `::*` names all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedPath {
    pub(super) line: usize,
    pub(super) path: String,
}

impl NamedPath {
    /// Whether this is the item, lies in it, or brings it in by a glob.
    pub(super) fn names(&self, item: &str) -> bool {
        let lies_in = |inner: &str, outer: &str| inner == outer || inner.starts_with(&format!("{outer}::"));
        match self.path.strip_suffix("::*") {
            Some(all_of) => lies_in(item, all_of) || lies_in(all_of, item),
            None => lies_in(&self.path, item),
        }
    }
}

#[derive(Default)]
struct Reader {
    /// Words, `::`, and single characters, with their lines.
    tokens: Vec<(String, usize)>,
    found: Vec<NamedPath>,
    /// What a name that was imported stands for.
    imported: HashMap<String, String>,
}

/// All paths in code that has neither comments nor literals.
pub(super) fn named_in(code: &str) -> Vec<NamedPath> {
    let mut reader = Reader { tokens: tokens_in(code), ..Reader::default() };
    reader.read_uses();
    reader.read_expressions();
    reader.found
}

impl Reader {
    fn token(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |(text, _)| text)
    }

    fn is_name(&self, at: usize) -> bool {
        self.token(at).starts_with(|c: char| c.is_alphabetic() || c == '_')
    }

    /// `use<'a>` in a bound names no path.
    fn is_use(&self, at: usize) -> bool {
        self.token(at) == "use" && self.token(at + 1) != "<"
    }

    fn read_uses(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            if self.is_use(at) {
                at = self.read_tree(at + 1, "");
            } else {
                at += 1;
            }
        }
    }

    /// Reads one branch of a `use` declaration; returns where it ended.
    fn read_tree(&mut self, mut at: usize, prefix: &str) -> usize {
        let mut path = prefix.to_owned();
        let mut name = String::new();
        let line = self.tokens.get(at).map_or(0, |(_, line)| *line);
        loop {
            match self.token(at) {
                "::" | "$" => at += 1,
                "{" => return self.read_group(at + 1, &path),
                "self" if !path.is_empty() => at += 1,
                "*" => {
                    self.found.push(NamedPath { line, path: joined(&path, "*") });
                    return at + 1;
                }
                "as" => {
                    name = self.token(at + 1).to_owned();
                    at += 2;
                }
                _ if self.is_name(at) => {
                    path = joined(&path, self.token(at));
                    at += 1;
                }
                _ => break,
            }
        }
        if name.is_empty() {
            name = path.rsplit("::").next().unwrap_or_default().to_owned();
        }
        self.found.push(NamedPath { line, path: path.clone() });
        self.imported.insert(name, path);
        at
    }

    fn read_group(&mut self, mut at: usize, prefix: &str) -> usize {
        loop {
            match self.token(at) {
                "" | ";" => return at,
                "}" => return at + 1,
                "," => at += 1,
                _ => {
                    let end = self.read_tree(at, prefix);
                    // No progress: not a `use` declaration after all.
                    at = end.max(at + 1);
                }
            }
        }
    }

    fn read_expressions(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            if self.is_use(at) {
                while !["", ";"].contains(&self.token(at)) {
                    at += 1;
                }
            }
            if !self.is_name(at) || self.token(at + 1) != "::" || self.continues_a_path(at) {
                at += 1;
                continue;
            }
            let line = self.tokens[at].1;
            let first = self.token(at);
            let mut path = self.imported.get(first).cloned().unwrap_or_else(|| first.to_owned());
            at += 1;
            while self.token(at) == "::" && self.is_name(at + 1) {
                path = joined(&path, self.token(at + 1));
                at += 2;
            }
            self.found.push(NamedPath { line, path });
        }
    }

    /// `::` before it, with something before that: `<T>::x`, `a::x`. A leading `::` begins a path.
    fn continues_a_path(&self, at: usize) -> bool {
        at >= 2 && self.token(at - 1) == "::" && (self.is_name(at - 2) || self.token(at - 2) == ">")
    }
}

fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") }
}

fn tokens_in(code: &str) -> Vec<(String, usize)> {
    let mut tokens: Vec<(String, usize)> = Vec::new();
    let mut line = 1;
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        let mut token = String::from(c);
        if c.is_alphanumeric() || c == '_' {
            while let Some(next) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                token.push(next);
            }
        } else if c == ':' {
            token.extend(chars.next_if_eq(&':'));
        } else if c.is_whitespace() {
            line += usize::from(c == '\n');
            continue;
        }
        tokens.push((token, line));
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(code: &str) -> Vec<String> {
        named_in(code).into_iter().map(|named| named.path).collect()
    }

    #[test]
    fn uses_are_taken_apart() {
        for (code, expected) in [
            ("use std::fs;", &["std::fs"][..]),
            ("use ::aya::Ebpf;", &["aya::Ebpf"]),
            (
                "pub use std::{fs, net::{IpAddr, TcpStream as T}, time::*};",
                &["std::fs", "std::net::IpAddr", "std::net::TcpStream", "std::time::*"],
            ),
            ("use std::time::{self, Duration};", &["std::time", "std::time::Duration"]),
            ("use a;\nuse b::c;", &["a", "b::c"]),
            ("fn f() -> impl Sized + use<'_> {}", &[]),
        ] {
            assert_eq!(paths(code), expected, "{code}");
        }
    }

    #[test]
    fn imported_names_are_put_in() {
        for (code, expected) in [
            ("use std::time; fn f() { time::Instant::now() }", "std::time::Instant::now"),
            ("use std::time as clock; fn f() { clock::SystemTime::now() }", "std::time::SystemTime::now"),
            ("fn f() { ::tokio::spawn(x) }", "tokio::spawn"),
            ("fn f() { std::fs::read(x) }", "std::fs::read"),
        ] {
            assert!(paths(code).iter().any(|path| path == expected), "{code}: {:?}", paths(code));
        }
    }

    #[test]
    fn a_path_names_what_it_is_lies_in_or_globs() {
        for (path, item, expected) in [
            ("aya", "aya", true),
            ("aya::Ebpf", "aya", true),
            ("aya_build::x", "aya", false),
            ("crate::aya", "aya", false),
            ("std::net::IpAddr", "std::net::TcpStream", false),
            ("std::net::*", "std::net::TcpStream", true),
            ("std::net", "std::net::TcpStream", false),
            ("std::fs::*", "std::fs", true),
        ] {
            assert_eq!(NamedPath { line: 1, path: path.to_owned() }.names(item), expected, "{path} {item}");
        }
    }

    #[test]
    fn odd_code_ends() {
        for code in ["use", "use {", "use a::{b", "use +", "use a::{+, b};", "use $crate::x;"] {
            let _paths = paths(code);
        }
    }
}
