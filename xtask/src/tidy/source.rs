//! Rust source, as far as rules need it: code without comments, literals and tests, and the functions in it.
//!
//! Not a parser: it knows where comments and literals end, and counts braces.

use std::ops::Range;

/// One source file.
pub(super) struct Source {
    pub(super) path: String,
    /// As it is in the file.
    pub(super) text: String,
    /// The same lines; comments, literals and what is under `#[cfg(test)]` are blank.
    pub(super) code: String,
    /// Lines that are not under `#[cfg(test)]`.
    pub(super) lines: usize,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) lines: usize,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let mut code: Vec<char> = without_literals(text).chars().collect();
        let mut lines = text.lines().count();
        for range in test_items(&code) {
            lines -= 1 + count_newlines(&code[range.clone()]);
            blank(&mut code[range]);
        }
        Self { path: path.to_owned(), text: text.to_owned(), code: code.into_iter().collect(), lines }
    }

    pub(super) fn functions(&self) -> Vec<Function> {
        let code: Vec<char> = self.code.chars().collect();
        let mut functions = Vec::new();
        for (at, word) in words(&code) {
            if word != "fn" {
                continue;
            }
            // No name: a function pointer's type. No body: a trait's declaration.
            let Some((_, name)) =
                words_from(&code, at + 2).next().filter(|(start, _)| blank_between(&code, at + 2, *start))
            else {
                continue;
            };
            if let Some(range) = item_at(&code, at)
                && code[range.end - 1] == '}'
            {
                let line = 1 + count_newlines(&code[..at]);
                functions.push(Function { name, line, lines: 1 + count_newlines(&code[range]) });
            }
        }
        functions
    }

    /// Each identifier and keyword with its line.
    pub(super) fn words(&self) -> Vec<(usize, String)> {
        let code: Vec<char> = self.code.chars().collect();
        words(&code).map(|(at, word)| (1 + count_newlines(&code[..at]), word)).collect()
    }
}

fn count_newlines(code: &[char]) -> usize {
    code.iter().filter(|c| **c == '\n').count()
}

fn blank(code: &mut [char]) {
    for c in code.iter_mut().filter(|c| **c != '\n') {
        *c = ' ';
    }
}

fn blank_between(code: &[char], from: usize, to: usize) -> bool {
    code[from..to].iter().all(|c| c.is_whitespace())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(code: &[char]) -> impl Iterator<Item = (usize, String)> + '_ {
    words_from(code, 0)
}

fn words_from(code: &[char], from: usize) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut at = from;
    std::iter::from_fn(move || {
        while at < code.len() && !is_word(code[at]) {
            at += 1;
        }
        let start = at;
        while at < code.len() && is_word(code[at]) {
            at += 1;
        }
        (start < at).then(|| (start, code[start..at].iter().collect()))
    })
}

/// From `start` to the end of the item there: its closing brace, or its semicolon.
fn item_at(code: &[char], start: usize) -> Option<Range<usize>> {
    let (mut braces, mut others) = (0usize, 0usize);
    for (at, c) in code.iter().enumerate().skip(start) {
        match c {
            // An array type's length in a signature is no end.
            '(' | '[' => others += 1,
            ')' | ']' => others = others.saturating_sub(1),
            '{' if others == 0 || braces > 0 => braces += 1,
            '}' if braces > 0 => {
                braces -= 1;
                if braces == 0 {
                    return Some(start..at + 1);
                }
            }
            ';' if braces == 0 && others == 0 => return Some(start..at + 1),
            _ => {}
        }
    }
    None
}

fn test_items(code: &[char]) -> Vec<Range<usize>> {
    let marker: Vec<char> = "#[cfg(test)]".chars().collect();
    let mut items = Vec::new();
    let mut at = 0;
    while at + marker.len() <= code.len() {
        match code[at..].starts_with(&marker).then(|| item_at(code, at)).flatten() {
            Some(range) => {
                at = range.end;
                items.push(range);
            }
            None => at += 1,
        }
    }
    items
}

/// Blanks comments and the insides of literals.
fn without_literals(text: &str) -> String {
    let mut code: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < code.len() {
        let end = match code[at] {
            '/' if code.get(at + 1) == Some(&'/') => line_end(&code, at),
            '/' if code.get(at + 1) == Some(&'*') => block_comment_end(&code, at),
            '"' => string_end(&code, at),
            '\'' => char_end(&code, at),
            c if is_word(c) => {
                let word_end = (at..code.len()).find(|i| !is_word(code[*i])).unwrap_or(code.len());
                let raw = code[at..word_end].ends_with(&['r']);
                match raw.then(|| raw_string_end(&code, word_end)).flatten() {
                    Some(end) => {
                        at = word_end;
                        end
                    }
                    None => {
                        at = word_end;
                        continue;
                    }
                }
            }
            _ => at,
        };
        if end > at {
            blank(&mut code[at..end]);
        }
        at = end.max(at + 1);
    }
    code.into_iter().collect()
}

fn line_end(code: &[char], from: usize) -> usize {
    (from..code.len()).find(|at| code[*at] == '\n').unwrap_or(code.len())
}

fn block_comment_end(code: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0usize, from);
    while at + 1 < code.len() {
        match (code[at], code[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

fn string_end(code: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < code.len() {
        match code[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    code.len()
}

/// The end of a character, or `from` where the quote begins a lifetime.
fn char_end(code: &[char], from: usize) -> usize {
    match (code.get(from + 1), code.get(from + 2)) {
        (Some('\\'), _) => (from + 3..code.len()).find(|at| code[*at] == '\'').map_or(code.len(), |quote| quote + 1),
        (Some(_), Some('\'')) => from + 3,
        _ => from,
    }
}

/// The end of `"…"` or `#"…"#` after an `r`; none where it is an identifier such as `r#type`.
fn raw_string_end(code: &[char], from: usize) -> Option<usize> {
    let hashes = code[from..].iter().take_while(|c| **c == '#').count();
    let quote = from + hashes;
    if code.get(quote) != Some(&'"') {
        return None;
    }
    let ends_at = |at: usize| code[at] == '"' && code[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    Some((quote + 1..code.len()).find(|at| ends_at(*at)).map_or(code.len(), |at| at + 1 + hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        for (text, expected) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d\n */ e", "a               \n    e"),
            (r#"f("x { \" }") + g"#, "f(          ) + g"),
            ("r\"{\" b", "r    b"),
            ("br#\"a \" {\"# + c", "br          + c"),
            ("r#type { }", "r#type { }"),
            ("'{' + '\\'' + b'\\\\' + '\\u{7f}'", "    +      + b     +         "),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
        ] {
            assert_eq!(without_literals(text), expected, "{text}");
        }
    }

    #[test]
    fn tests_are_not_counted_wherever_they_are() {
        let text = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n";
        let source = Source::new("x.rs", text);
        assert_eq!(source.lines, 3);
        let names: Vec<String> = source.functions().into_iter().map(|function| function.name).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(Source::new("x.rs", "//! x\n#[cfg(test)]\nmod tests;\n").lines, 1);
    }

    #[test]
    fn functions_are_measured_from_the_keyword_to_the_brace() {
        let text = "type F = fn(u8) -> u8;\ntrait T {\n    fn none(&self);\n}\npub const fn one(a: [u8; 2]) -> u8 {\n    \
                    if a[0] == 1 { 1 } else {\n        2\n    }\n}\n";
        let functions = Source::new("x.rs", text).functions();
        assert_eq!(functions, [Function { name: "one".to_owned(), line: 5, lines: 5 }]);
    }
}
