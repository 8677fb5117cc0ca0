//! Text for people: cleaning what comes from outside, measuring and cutting it, messages of two lines,
//! durations.
//!
//! Everything that arrives in a stream, a ledger or an argument is hostile until it has passed
//! through [`clean`]: it could steer the terminal otherwise.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How to render for a device.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether to use escape codes for colour.
    pub color: bool,
    /// Whether the locale is UTF-8; only ASCII is shown otherwise.
    pub unicode: bool,
    /// The width in columns.
    pub width: usize,
}

impl Style {
    /// Text from outside as this device can show it.
    pub(crate) fn shown(self, text: &str) -> String {
        let cleaned = clean(text);
        // A name of nothing but controls: a blank would look like a defect of the report.
        if cleaned.is_empty() && !text.is_empty() {
            return "?".to_owned();
        }
        if self.unicode { cleaned } else { cleaned.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect() }
    }

    /// Text from outside, cut to `width` columns.
    pub(crate) fn label(self, text: &str, width: usize) -> String {
        let text = self.shown(text);
        if text.width() <= width {
            return text;
        }
        // By columns and not characters, which may take two columns or none.
        let dots = if self.unicode { "…" } else { "~" };
        cut(&text, width.saturating_sub(1)) + dots
    }

    /// A figure, marked where it is a lower bound.
    pub(crate) fn at_least(self, is_lower_bound: bool, figure: &str) -> String {
        match (is_lower_bound, self.unicode) {
            (false, _) => figure.to_owned(),
            (true, true) => format!("≥ {figure}"),
            (true, false) => format!(">= {figure}"),
        }
    }
}

/// Text from outside, without anything that could steer a terminal.
pub fn clean(text: &str) -> String {
    // Control characters, C1 among them: an 8-bit CSI starts an escape sequence as well as ESC does. And
    // bidirectional controls, which could make `exceeded` read as something else.
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().filter(|c| !steers(*c)).collect()
}

/// A path, an argument or a program's name, cleaned.
pub(crate) fn clean_os(text: impl AsRef<OsStr>) -> String {
    clean(&text.as_ref().to_string_lossy())
}

/// `text` cut to `width` columns.
pub(crate) fn cut(text: &str, width: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= width
    };
    text.chars().take_while(fits).collect()
}

/// The columns of a line with colours in it.
pub(crate) fn shown_width(line: &str) -> usize {
    // Each is between ESC and `m`.
    line.split('\x1b').enumerate().fold(0, |sum, (part, text)| {
        let text = if part == 0 { text } else { text.split_once('m').map_or("", |(_, text)| text) };
        sum + text.width()
    })
}

/// `text` with the lines that are wider than `width` broken between words, and what follows indented.
// A terminal breaks lines in the middle of words and figures.
pub(crate) fn wrapped(text: &str, width: usize) -> String {
    let indent = if width < 40 { 2 } else { 10 };
    text.split_inclusive('\n').map(|line| wrapped_line(line, width, indent)).collect()
}

fn wrapped_line(line: &str, width: usize, indent: usize) -> String {
    let columns = |text: &str| shown_width(text.trim_end_matches('\n'));
    if columns(line) <= width {
        return line.to_owned();
    }
    let mut words = line.split(' ');
    let mut out = words.next().unwrap_or_default().to_owned();
    let mut used = columns(&out);
    for word in words {
        let (gap, before) = match used + 1 + columns(word) > width {
            true => (format!("\n{:indent$}", ""), indent),
            false => (" ".to_owned(), used + 1),
        };
        out = out + &gap + word;
        used = before + columns(word);
    }
    out
}

/// The system's words for an error: `No such file or directory`.
pub(crate) fn reason(error: impl Into<io::Error>) -> String {
    without_number(&error.into().to_string())
}

/// An error's text without the ` (os error 2)` that the standard library adds.
// The coreutils do not print it, and the words say the same.
pub(crate) fn without_number(text: &str) -> String {
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The columns of a message that the program's name before it leaves.
const MESSAGE_WIDTH: usize = 80 - "budget-tee: ".len();

/// A message with a second line that says what follows from it, or what to do.
// Of a terminal's 80 columns a message gets no more: a line that wraps is cut by the next redraw of the bars,
// and nobody reads its end in a log. Each line has the program's name, so that each can be found.
pub(crate) fn with_note(message: impl Display, note: impl Display) -> String {
    format!("{message}\nnote: {note}")
}

/// `cannot open ledger spend.ndjson: Permission denied`; the reason is a note where one line cannot hold both.
pub(crate) fn because(what: impl Display, why: impl Display) -> String {
    let line = format!("{what}: {why}");
    if line.lines().next().unwrap_or_default().width() <= MESSAGE_WIDTH { line } else { with_note(what, why) }
}

/// `1 line`, `2 lines`, with the number in digit groups.
pub(crate) fn plural(count: u64, noun: &str) -> String {
    let number = crate::amount::exact(count);
    if count == 1 { format!("{number} {noun}") } else { format!("{number} {noun}s") }
}

/// Seconds as people read them, rounded up: `45s`, `12m`, `5h 30m`, `3d 2h`.
pub(crate) fn seconds(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
    let seconds = seconds.ceil() as u64;
    let two = |whole: u64, unit: &str, part: u64, sub: &str| {
        if part == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit} {part}{sub}") }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}
