//! Which mirror of Debian this machine uses: read from apt's sources, for no other host is asked.

/// The two archives, as addresses for a line of sources.list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    pub(super) main: String,
    pub(super) security: String,
}

/// One source: an address and the suites taken from it.
#[derive(Debug, Default)]
struct Source {
    uri: String,
    suites: Vec<String>,
}

/// The first mirror that has Debian's `main`, and the first with its security updates, in the texts of sources files.
/// Should they be of somebody else's archive, apt finds no signature of Debian's on them.
pub(super) fn find<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Mirror> {
    let sources: Vec<Source> =
        texts.into_iter().flat_map(|text| one_line(text).into_iter().chain(stanzas(text))).collect();
    let first = |is: &dyn Fn(&str) -> bool| {
        sources.iter().find(|source| source.suites.iter().any(|suite| is(suite))).map(|source| source.uri.clone())
    };
    Some(Mirror {
        // Other archives call their suites by Debian's names too, but have no such one.
        main: first(&|suite| suite.ends_with("-updates"))?,
        security: first(&|suite| suite.ends_with("-security"))?,
    })
}

/// `deb [options] URI SUITE main …`
fn one_line(text: &str) -> Vec<Source> {
    let source = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_whitespace();
        let source = Source { uri: words.next()?.to_owned(), suites: vec![words.next()?.to_owned()] };
        words.any(|component| component == "main").then_some(source)
    };
    text.lines().filter_map(source).collect()
}

/// The format with one field a line, entries apart by empty lines.
fn stanzas(text: &str) -> Vec<Source> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut sources = Vec::new();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| field(stanza, name);
        let off = field("Enabled").iter().any(|word| word == "no");
        if off || !field("Types").iter().any(|word| word == "deb") || !field("Components").iter().any(|w| w == "main") {
            continue;
        }
        let suites = field("Suites");
        sources.extend(field("URIs").into_iter().map(|uri| Source { uri, suites: suites.clone() }));
    }
    sources
}

/// The words of a field, which may go on in lines that begin with a space.
fn field(stanza: &[&str], name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut inside = false;
    for line in stanza {
        let value = if line.starts_with([' ', '\t']) {
            *line
        } else {
            let (key, value) = line.split_once(':').unwrap_or((line, ""));
            inside = key.eq_ignore_ascii_case(name);
            value
        };
        if inside {
            words.extend(value.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(main: &str, security: &str) -> Option<Mirror> {
        Some(Mirror { main: main.to_owned(), security: security.to_owned() })
    }

    #[test]
    fn the_mirror_is_read_from_both_formats() {
        let new = "# a comment\nTypes: deb deb-src\n# another\nURIs: http://m/debian\nSuites: bookworm\n bookworm-updates\n\
                   Components: main contrib\n\nTypes: deb\nURIs: http://s/x\nSuites: bookworm-security\nComponents: main\n";
        assert_eq!(find([new]), mirror("http://m/debian", "http://s/x"));
        let old = "deb https://other/debian bookworm stable\n# deb http://no bookworm-updates main\n\
                   deb [arch=amd64 signed-by=/k] http://m/debian bookworm-updates main\n\
                   deb-src http://no bookworm-security main\ndeb http://s bookworm-security main non-free\n";
        assert_eq!(find([old]), mirror("http://m/debian", "http://s"));
    }

    #[test]
    fn without_both_archives_there_is_no_mirror() {
        for text in [
            "",
            "deb http://m bookworm-updates main\n",
            "deb http://m bookworm main\ndeb http://s bookworm-security main\n",
            "Types: deb\nURIs: http://m\nSuites: a-updates a-security\nComponents: main\nEnabled: no\n",
            "deb http://m a-updates universe\ndeb http://m a-security universe\n",
        ] {
            assert_eq!(find([text]), None, "{text}");
        }
    }
}
