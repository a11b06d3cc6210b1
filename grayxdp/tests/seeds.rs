//! The fuzz targets' checks without a fuzzer: over their seeds, and over each seed with something wrong in it.

#[path = "../../fuzz/checks.rs"]
mod checks;

use std::{fs, path::Path};

/// What a byte is replaced by.
const ODD: [&str; 8] = ["\"", "[", "}", "=", "9", "-", "\0", "é"];

fn seeds(target: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(&folder)
        .expect("seeds are there")
        .map(|entry| {
            let path = entry.expect("readable").path();
            (path.display().to_string(), fs::read_to_string(&path).expect("text"))
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{}", folder.display());
    seeds
}

/// Beginnings; without one line; with a line twice; with another byte at every `every`th place.
fn spoiled(seed: &str, every: usize) -> impl Iterator<Item = String> {
    let places: Vec<usize> = seed.char_indices().map(|(at, _)| at).step_by(every).collect();
    let lines: Vec<&str> = seed.lines().collect();
    let without = |nth: usize| [&lines[..nth], &lines[nth + 1..]].concat().join("\n");
    let twice = |nth: usize| [&lines[..=nth], &lines[nth..]].concat().join("\n");
    let of_lines = (0..lines.len()).flat_map(|nth| [without(nth), twice(nth)]).collect::<Vec<_>>();
    let cut = places.clone().into_iter().map(|at| seed[..at].to_owned());
    let other = places.into_iter().enumerate().map(|(nth, at)| {
        let rest = &seed[at..];
        let next = rest.chars().next().map_or(0, char::len_utf8);
        format!("{}{}{}", &seed[..at], ODD[nth % ODD.len()], &rest[next..])
    });
    cut.chain(other).chain(of_lines)
}

#[test]
fn config_files_are_read_or_refused_whatever_is_wrong_with_them() {
    for (name, text) in seeds("config") {
        assert!(checks::config(&text), "{name} is as it should be");
        for text in spoiled(&text, 3) {
            checks::config(&text);
        }
    }
}

#[test]
fn bodies_of_the_control_api_are_read_or_refused_whatever_is_wrong_with_them() {
    for (name, text) in seeds("api") {
        assert!(checks::api(text.as_bytes()), "{name} is as it should be");
        for text in spoiled(&text, 1) {
            checks::api(text.as_bytes());
        }
    }
}
