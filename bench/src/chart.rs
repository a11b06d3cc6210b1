//! A picture of what a packet costs by the number of flows: nat/tcp4 beside lru/tcp4, in SVG. Pure.

use std::fmt::Write as _;

use crate::{
    case::{Case, FLOWS, Kind, Subject, Traffic},
    report::Report,
};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 380.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 56.0;
const LEFT: f64 = 56.0;
const GAP: f64 = 28.0;
const BAR: f64 = 26.0;
/// Colours that people who cannot tell red from green tell apart, on white and on black.
const COLOURS: [(Subject, &str, &str); 2] =
    [(Subject::Lru, "#9aa5b1", "BPF LRU hash"), (Subject::Nat, "#2f6fde", "grayxdp, mode nat")];

/// One panel a kind of packet, one pair of bars a number of flows.
pub(crate) fn draw(report: &Report) -> String {
    let kinds = [(Kind::Hit, "known flow"), (Kind::Reply, "reply"), (Kind::New, "new flow")];
    let ns = |subject, kind, flows| report.median(Case::Flow(subject, Traffic::TCP4, kind, flows));
    let mut highest: f64 = 1.0;
    for (kind, _) in kinds {
        for flows in FLOWS {
            for (subject, ..) in COLOURS {
                highest = highest.max(ns(subject, kind, flows).unwrap_or(0.0));
            }
        }
    }
    let step = step(highest);
    let top_value = (highest / step).ceil() * step;
    let y = |value: f64| HEIGHT - BOTTOM - value / top_value * (HEIGHT - TOP - BOTTOM);
    let mut svg = head();
    let mut line = 0.0;
    while line <= top_value {
        let at = y(line);
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" x2="{:.0}" y1="{at:.1}" y2="{at:.1}" stroke="#d5dae0"/><text x="{:.0}" y="{:.1}" class="small" text-anchor="end">{line:.0}</text>"##,
            WIDTH - 12.0,
            LEFT - 8.0,
            at + 4.0,
        );
        line += step;
    }
    let panel = (WIDTH - LEFT - 12.0 - 2.0 * GAP) / 3.0;
    for (nth, (kind, title)) in (0_u8..).zip(kinds) {
        let left = LEFT + f64::from(nth) * (panel + GAP);
        let _ = writeln!(svg, r#"<text x="{:.1}" y="{:.1}" class="panel">{title}</text>"#, left + 8.0, TOP - 8.0);
        for (group, flows) in (0_u8..).zip(FLOWS) {
            let centre = left + panel * (f64::from(group) + 0.5) / 4.0;
            for (side, (subject, colour, _)) in (0_u8..).zip(COLOURS) {
                let Some(value) = ns(subject, kind, flows) else { continue };
                let x = centre - BAR + f64::from(side) * BAR;
                bar(&mut svg, x, y(value), y(0.0), colour, value);
            }
            let _ = writeln!(
                svg,
                r#"<text x="{centre:.1}" y="{:.1}" class="small" text-anchor="middle">{}</text>"#,
                HEIGHT - BOTTOM + 17.0,
                short(flows)
            );
        }
    }
    let _ = writeln!(
        svg,
        r#"<text x="{:.0}" y="{:.0}" class="small" text-anchor="middle">live flows</text></svg>"#,
        (LEFT + WIDTH) / 2.0,
        HEIGHT - 14.0
    );
    svg
}

fn head() -> String {
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">
<style>text{{fill:#1f2933}}.title{{font-size:17px;font-weight:bold}}.panel{{font-size:14px}}.small{{font-size:12px}}.value{{font-size:11px}}</style>
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<text x="16" y="28" class="title">Nanoseconds a packet, TCP over IPv4 (less is better)</text>
"##
    );
    for (nth, (_, colour, name)) in (0_u8..).zip(COLOURS) {
        let x = 560.0 + f64::from(nth) * 170.0;
        let _ = writeln!(
            svg,
            r#"<rect x="{x}" y="17" width="13" height="13" fill="{colour}"/><text x="{}" y="28" class="small">{name}</text>"#,
            x + 19.0
        );
    }
    svg
}

fn bar(svg: &mut String, x: f64, top: f64, bottom: f64, colour: &str, value: f64) {
    let (width, height) = (BAR - 2.0, (bottom - top).max(0.0));
    let _ = writeln!(
        svg,
        r#"<rect x="{x:.1}" y="{top:.1}" width="{width}" height="{height:.1}" fill="{colour}"/><text x="{:.1}" y="{:.1}" class="value" text-anchor="middle">{value:.0}</text>"#,
        x + width / 2.0,
        top - 4.0
    );
}

/// Lines that numbers are read at: five or so.
fn step(highest: f64) -> f64 {
    [10.0, 20.0, 50.0, 100.0, 200.0, 500.0].into_iter().find(|step| highest / step <= 6.0).unwrap_or(1000.0)
}

fn short(flows: u32) -> String {
    match flows {
        1_048_576 => "1 M".to_owned(),
        flows if flows >= 1024 => format!("{} k", flows / 1024),
        flows => flows.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_about_five_lines_and_short_names() {
        for (highest, expected) in [(55.0, 10.0), (61.0, 20.0), (740.0, 200.0), (5000.0, 1000.0)] {
            assert!((step(highest) - expected).abs() < f64::EPSILON, "{highest}");
        }
        assert_eq!(FLOWS.map(short), ["1", "1 k", "64 k", "1 M"]);
    }
}
