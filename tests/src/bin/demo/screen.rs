//! Live progress: redrawn in place on a terminal, a plain line now and then elsewhere.

use std::{
    env,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Every line fits into 80 columns: a wrapped one could not be redrawn.
const BAR_CELLS: usize = 30;
const REDRAW: Duration = Duration::from_millis(100);
const PLAIN_LINE: Duration = Duration::from_secs(2);

/// What is shown.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) elapsed: Duration,
    pub(crate) expected: Duration,
    pub(crate) state: String,
    pub(crate) weight_percent: f64,
    /// Share in percent and number of the latest new connections.
    pub(crate) recent_share: Option<(f64, usize)>,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) keep_alive: [usize; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    Plain,
    Drawn { colour: bool },
}

pub(crate) struct Screen {
    look: Look,
    lines_drawn: usize,
    last: Option<Instant>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let look = if terminal { Look::Drawn { colour } } else { Look::Plain };
        Self { look, lines_drawn: 0, last: None }
    }

    /// Prints a line that stays.
    pub(crate) fn line(&mut self, text: &str) {
        write_out(&format!("{text}\n"));
        self.lines_drawn = 0;
    }

    /// Shows the progress, if it is time to.
    pub(crate) fn show(&mut self, now: Instant, progress: &Progress) {
        let pause = if self.look == Look::Plain { PLAIN_LINE } else { REDRAW };
        if self.last.is_some_and(|last| now.duration_since(last) < pause) {
            return;
        }
        self.last = Some(now);
        match self.look {
            Look::Plain => write_out(&format!("{}\n", plain(progress))),
            Look::Drawn { colour } => {
                let lines = drawn(progress, colour);
                let up = if self.lines_drawn > 0 { format!("\x1b[{}A", self.lines_drawn) } else { String::new() };
                let body: String = lines.iter().map(|line| format!("\r\x1b[2K{line}\n")).collect();
                write_out(&(up + &body));
                self.lines_drawn = lines.len();
            }
        }
    }

    /// Wraps text in a colour, where there are colours.
    pub(crate) fn paint(&self, text: &str, code: &str) -> String {
        paint(text, code, self.look == Look::Drawn { colour: true })
    }
}

/// Green, for what is as it should be.
pub(crate) const GOOD: &str = "32";
/// Red, for what is not.
pub(crate) const BAD: &str = "31";
const V2: &str = "36";

fn plain(progress: &Progress) -> String {
    format!(
        "{:5.1} s  {}  weight {:6.2} %  v2 share {}  requests {}  failed {}  {}",
        progress.elapsed.as_secs_f64(),
        progress.state,
        progress.weight_percent,
        share_text(progress),
        progress.requests,
        progress.failed,
        bar(progress.weight_percent, 20),
    )
}

fn drawn(progress: &Progress, colour: bool) -> Vec<String> {
    let [v1, v2] = progress.keep_alive;
    let failed = progress.failed.to_string();
    let failed = paint(&failed, if progress.failed == 0 { GOOD } else { BAD }, colour);
    let share = progress.recent_share.map_or(0.0, |(share, _)| share);
    let time_percent = 100.0 * progress.elapsed.as_secs_f64() / progress.expected.as_secs_f64();
    let time = format!("{:.0} of about {:.0} s", progress.elapsed.as_secs_f64(), progress.expected.as_secs_f64());
    vec![
        format!("  release    {}  {time}, {}", bar(time_percent, BAR_CELLS), progress.state),
        format!(
            "  weight     {}  {:6.2} %",
            paint(&bar(progress.weight_percent, BAR_CELLS), V2, colour),
            progress.weight_percent
        ),
        format!(
            "  v2 share   {}  {} of new connections",
            paint(&bar(share, BAR_CELLS), V2, colour),
            share_text(progress)
        ),
        format!(
            "  requests   {}   failed {failed}   keep-alive connections: {v1} on v1, {v2} on v2",
            progress.requests
        ),
    ]
}

fn share_text(progress: &Progress) -> String {
    progress.recent_share.map_or_else(|| "     - %".to_owned(), |(share, _)| format!("{share:6.2} %"))
}

/// A bar of `cells` for 100 %.
fn bar(percent: f64, cells: usize) -> String {
    let filled = (1..=cells).filter(|cell| *cell as f64 <= percent * cells as f64 / 100.0 + 0.5).count();
    format!("[{}{}]", "#".repeat(filled), ".".repeat(cells - filled))
}

fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A reader that went away is no reason to stop.
fn write_out(text: &str) {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_empty_at_0_and_full_at_100() {
        for (percent, expected) in [
            (0.0, "[....]"),
            (12.0, "[....]"),
            (25.0, "[#...]"),
            (50.0, "[##..]"),
            (100.0, "[####]"),
            (130.0, "[####]"),
        ] {
            assert_eq!(bar(percent, 4), expected, "{percent}");
        }
    }
}
