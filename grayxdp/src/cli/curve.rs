//! Weights over time, drawn for a terminal.

use std::{fmt::Write as _, time::Duration};

use grayxdp_common::weight::Weight;

/// Columns and lines of the drawing, without its axes.
pub(super) const COLUMNS: u32 = 68;
const LINES: u32 = 10;

/// What is drawn.
pub(super) struct Curve<'a> {
    /// The weight at each of [`COLUMNS`] moments.
    pub(super) weight: &'a dyn Fn(usize) -> Weight,
    /// The last moment; the first one is zero.
    pub(super) end: Duration,
}

/// Percent upwards, time to the right; no line is longer than 80 columns.
pub(super) fn draw(text: &mut String, curve: &Curve<'_>) {
    const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const HALF: u32 = LINES / 2;
    let width = COLUMNS as usize;
    let column = |column: usize| {
        // Rounded up, so that the smallest weight can be seen.
        let weight = u32::from((curve.weight)(column).hundredths());
        (weight * LINES * 8).div_ceil(u32::from(Weight::FULL.hundredths()))
    };
    let heights: Vec<u32> = (0..width).map(column).collect();
    for line in (0..LINES).rev() {
        let label = match line + 1 {
            LINES => "100 % ┤",
            HALF => " 50 % ┤",
            _ => "      │",
        };
        let cell = |height: &u32| EIGHTHS[height.saturating_sub(line * 8).min(8) as usize];
        let cells: String = heights.iter().map(cell).collect();
        text.push_str(label);
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text.push_str(&format!("  0 % └{}\n", "─".repeat(width)));
    let (middle, last) = (rough_time(curve.end / 2), rough_time(curve.end));
    let half = width / 2;
    let (start, rest) = (half / 2, width - half / 2 - half);
    let _ = writeln!(text, "       {:<start$}{middle:^half$}{last:>rest$}", "0s");
}

/// The two largest units, for places that are narrow.
fn rough_time(length: Duration) -> String {
    time(length).split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// To the millisecond.
pub(super) fn time(time: Duration) -> String {
    humantime::format_duration(Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))).to_string()
}
