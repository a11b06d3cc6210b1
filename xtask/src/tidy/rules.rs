//! The rules that look at one file.

use super::{Finding, paths, source::Source};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Clocks, files, sockets, randomness and the kernel: pure code gets what they say as arguments.
const IMPURE: [&str; 11] = [
    "aya",
    "getrandom",
    "rand",
    "rusqlite",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
];

/// Crates that only one directory may import, so that what they stand for stays there.
const SOLE_IMPORTERS: [(&str, &str); 2] = [("aya", "grayxdp/src/kernel/"), ("rusqlite", "grayxdp/src/store/")];

/// Where the packet program may be unsafe.
const UNSAFE_FILES: [&str; 9] = [
    "accessors.rs",
    "cells.rs",
    "count.rs",
    "helpers.rs",
    "main.rs",
    "maps.rs",
    "packet.rs",
    "scratch.rs",
    "stages.rs",
];

/// Hosts of package registries, taken apart so that this file does not name them: which registry is asked is
/// the business of each machine's own configuration.
const REGISTRIES: [(&str, &str); 12] = [
    ("crates", "io"),
    ("static.rust-lang", "org"),
    ("deb.debian", "org"),
    ("security.debian", "org"),
    ("archive.ubuntu", "com"),
    ("pypi", "org"),
    ("registry.npmjs", "org"),
    ("proxy.golang", "org"),
    ("docker", "io"),
    ("ghcr", "io"),
    ("quay", "io"),
    ("pkg.github", "com"),
];

pub(super) fn all(source: &Source) -> Vec<Finding> {
    let of_code: &[fn(&Source) -> Vec<Finding>] = &[sizes, purity, importers, unsafe_code];
    let rules = if is_tests(source) { &[] } else { of_code };
    head(source).into_iter().chain(rules.iter().flat_map(|rule| rule(source))).collect()
}

/// A module under `#[cfg(test)]` that has outgrown its file.
fn is_tests(source: &Source) -> bool {
    source.path.ends_with("/tests.rs") || source.path.ends_with("_tests.rs")
}

fn finding(source: &Source, line: usize, message: impl Into<String>) -> Finding {
    Finding::new(&source.path, line, message)
}

/// A newcomer reads first what a file is for.
fn head(source: &Source) -> Vec<Finding> {
    if source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![finding(source, 1, "does not begin with `//!`: say what it is for, and what it must not do")]
}

fn sizes(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.lines > FILE_LINES_MAX {
        let message =
            format!("has {} lines without tests; split it by nouns, {FILE_LINES_MAX} are the most", source.lines);
        findings.push(finding(source, 1, message));
    }
    for function in source.functions().iter().filter(|function| function.lines > FUNCTION_LINES_MAX) {
        let (name, lines) = (&function.name, function.lines);
        let message = format!("`{name}` has {lines} lines; split it, {FUNCTION_LINES_MAX} are the most");
        findings.push(finding(source, function.line, message));
    }
    findings
}

fn purity(source: &Source) -> Vec<Finding> {
    let is_pure = |dir: &str| source.path.starts_with(&format!("grayxdp/src/{dir}/"));
    if !is_pure("decide") && !is_pure("model") {
        return Vec::new();
    }
    imports(source, &IMPURE, "pure code takes what it says as an argument")
}

fn importers(source: &Source) -> Vec<Finding> {
    let forbidden = SOLE_IMPORTERS.iter().filter(|(_, dir)| {
        let module_file = format!("{}.rs", dir.trim_end_matches('/'));
        source.path.starts_with("grayxdp/src/") && !source.path.starts_with(dir) && source.path != module_file
    });
    forbidden.flat_map(|(name, dir)| imports(source, &[name], &format!("only {dir} does"))).collect()
}

fn imports(source: &Source, items: &[&str], reason: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for named in paths::named_in(&source.code) {
        if let Some(item) = items.iter().find(|item| named.names(item)) {
            findings.push(finding(source, named.line, format!("uses `{item}`: {reason}")));
        }
    }
    findings.dedup();
    findings
}

fn unsafe_code(source: &Source) -> Vec<Finding> {
    let Some(name) = source.path.strip_prefix("grayxdp-ebpf/src/") else { return Vec::new() };
    if UNSAFE_FILES.contains(&name) {
        return Vec::new();
    }
    let lines = source.words().into_iter().filter(|(_, word)| word == "unsafe").map(|(line, _)| line);
    lines
        .map(|line| finding(source, line, format!("has `unsafe`: it belongs into {}", UNSAFE_FILES.join(", "))))
        .collect()
}

/// In any text file.
pub(super) fn host_names(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for host in REGISTRIES.map(|(name, domain)| format!("{name}.{domain}")) {
            if line.contains(&host) {
                findings.push(Finding::new(path, index + 1, format!("names the registry host {host}")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<(usize, String)> {
        all(&Source::new(path, text)).into_iter().map(|finding| (finding.line, finding.message)).collect()
    }

    #[test]
    fn each_rule_finds_its_breach_and_leaves_the_rest_alone() {
        for (path, text, expected) in [
            ("a.rs", "//! Head.\n", None),
            ("a.rs", "\n//! Head.\n", Some((1, "does not begin"))),
            (
                "grayxdp/src/decide/x.rs",
                "//! H\nuse std::time::{Duration, Instant};\n",
                Some((2, "`std::time::Instant`")),
            ),
            ("grayxdp/src/decide/x.rs", "//! H\nuse std::{net::IpAddr, time::Duration};\n", None),
            ("grayxdp/src/decide/x.rs", "//! H std::fs\n// tokio::x\n#[cfg(test)]\nmod t { use std::fs; }\n", None),
            ("grayxdp/src/model/x.rs", "//! H\nfn f() {\n    rand::random()\n}\n", Some((3, "`rand`"))),
            ("grayxdp/src/agent/x.rs", "//! H\nuse tokio::net;\nuse std::fs;\n", None),
            ("grayxdp/src/agent/x.rs", "//! H\nuse aya::Ebpf;\n", Some((2, "only grayxdp/src/kernel/"))),
            ("grayxdp/src/kernel/x.rs", "//! H\nuse aya::Ebpf;\n", None),
            ("grayxdp/src/kernel/x.rs", "//! H\nuse rusqlite::Connection;\n", Some((2, "only grayxdp/src/store/"))),
            ("grayxdp/src/store.rs", "//! H\nuse rusqlite::Connection;\n", None),
            ("grayxdp/src/agent/tests.rs", "//! H\nuse rusqlite::Connection;\n", None),
            ("tests/tests/x.rs", "//! H\nuse aya::Ebpf;\n", None),
            ("grayxdp-ebpf/src/flow.rs", "//! unsafe\nfn f() {\n    unsafe { g() }\n}\n", Some((3, "has `unsafe`"))),
            ("grayxdp-ebpf/src/packet.rs", "//! H\nfn f() { unsafe { g() } }\n", None),
        ] {
            let found = complaints(path, text);
            match expected {
                None => assert!(found.is_empty(), "{path}: {found:?}"),
                Some((line, part)) => {
                    assert_eq!(found.len(), 1, "{path}: {found:?}");
                    assert!(found[0].0 == line && found[0].1.contains(part), "{path}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn long_files_and_functions_are_found_and_long_tests_are_not() {
        let lines = |count: usize| "    x();\n".repeat(count);
        let function = |count: usize| format!("//! H\nfn long() {{\n{}}}\n", lines(count - 2));
        assert!(complaints("a.rs", &function(FUNCTION_LINES_MAX)).is_empty());
        assert_eq!(complaints("a.rs", &function(FUNCTION_LINES_MAX + 1))[0].0, 2);
        let file = |count: usize| format!("//! H\n{}", "const A: u8 = 1;\n".repeat(count - 1));
        assert!(complaints("a.rs", &file(FILE_LINES_MAX)).is_empty());
        assert_eq!(complaints("a.rs", &file(FILE_LINES_MAX + 1))[0].0, 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n    fn long() {{\n{}    }}\n}}\n", lines(600));
        assert!(complaints("a.rs", &(file(FILE_LINES_MAX) + &tests)).is_empty());
    }

    #[test]
    fn registry_hosts_are_found_in_any_text() {
        let text = format!("one\nsee {}.{}\n", "crates", "io");
        assert_eq!(host_names("README.md", &text)[0].line, 2);
        assert!(host_names("README.md", "crates for io").is_empty());
    }
}
