//! Instructions that the verifier looked at, against those of the last time that somebody looked: a program that grows
//! may be refused by older kernels, which give up at a million.

/// Names and counts, a line each.
const KNOWN: &str = include_str!("../instructions.txt");
/// Growth that goes unremarked.
const GROWTH_PERCENT: u32 = 10;

/// What has grown too much.
pub(crate) fn complaints(found: &[(&'static str, u32)]) -> Vec<String> {
    complaints_against(KNOWN, found)
}

fn complaints_against(known: &str, found: &[(&'static str, u32)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, count) in found {
        let known = known.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
        match known {
            None => complaints.push(format!("{name} is not in bench/instructions.txt; add `{name} {count}`")),
            Some(known) if u64::from(*count) * 100 > u64::from(known) * u64::from(100 + GROWTH_PERCENT) => {
                complaints.push(format!(
                    "{name} takes {count} verified instructions, over {GROWTH_PERCENT} % more than {known}; make it \
                     simpler, or write the new number into bench/instructions.txt"
                ));
            }
            Some(_) => {}
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_growth_beyond_the_allowance_is_told() {
        let known = "a 1000\nb 1000\n";
        assert!(complaints_against(known, &[("a", 1100), ("b", 1)]).is_empty());
        assert_eq!(complaints_against(known, &[("a", 1101)]).len(), 1);
        assert!(complaints_against(known, &[("c", 1)])[0].contains("c 1"));
    }
}
