//! The screen: the one owner of stderr.
//!
//! On a terminal the bars stand below the cursor, which stays where it was. Elsewhere a line is printed
//! when a budget enters a new tenth. A job in the background is silent until it is in front.
//!
//! Nothing here fails and nothing waits for long: what stderr does not take is dropped.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::{Errno, write};
use rustix::process::getpgrp;
use rustix::stdio::{stderr, stdout};
use rustix::termios::{isatty, tcgetpgrp, tcgetwinsize};

use crate::show::text::{Style, wrapped};

/// How much is written at once, in bytes.
// PIPE_BUF: a pipe takes so much without blocking once poll says that it is writable. More could block,
// where stderr cannot be opened a second time.
const WRITE_MAX: usize = 4096;

/// How much may wait for stderr, give or take a line, in bytes.
// Enough for every message of a run; a reader that has stalled must not fill the memory.
const UNWRITTEN_MAX: usize = 64 * 1024;

/// How long the final report may wait for a reader of stderr.
// All else is tried again with the next frame; after the report nothing follows.
const REPORT_WAIT: Duration = Duration::from_millis(250);

/// The width of a terminal that does not know its own.
const WIDTH_UNKNOWN: usize = 80;

/// How the budgets are shown while a run goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Bars {
    /// As bars that are redrawn on a terminal, as lines elsewhere.
    #[default]
    Auto,
    /// As a line when a budget enters a new tenth.
    // For a terminal that other programs write to through a pipe: a filter cannot know of them.
    Line,
    /// Not at all; the report at the end stays.
    Off,
}

/// Whether bars and report are wanted, and how stderr can show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    Quiet,
    ReportOnly,
    Plain,
    Terminal,
}

/// How much a message matters, to GitHub Actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The run goes on.
    Warning,
    /// It does not.
    Error,
}

/// What is to be seen of the budgets now.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    /// A line per budget in force, no longer than the width.
    pub(crate) lines: Vec<String>,
    /// How many tenths of each are used; empty where nothing is limited.
    pub(crate) tenths: Vec<u64>,
}

/// Stderr, and what stands on it.
#[derive(Debug)]
pub struct Screen {
    medium: Medium,
    color: bool,
    unicode: bool,
    /// Stderr opened a second time, non-blocking; `None` where that fails or is not needed.
    // O_NONBLOCK belongs to what was opened, which the shell and the rest of the pipeline share.
    own: Option<OwnedFd>,
    is_terminal: bool,
    /// GitHub Actions reads it: messages become annotations of the job.
    is_actions: bool,
    /// This budget-tee holds the lock on the terminal; no other one draws there.
    owns_terminal: bool,
    /// Stdout is the same terminal.
    shares_stdout: bool,
    /// Forwarded text on the same terminal has ended with a newline.
    at_line_start: bool,
    /// Bars stand below the cursor.
    drawn: bool,
    /// The tenths last printed, where there is no terminal.
    printed_tenths: Vec<u64>,
    /// What stderr has not taken yet.
    unwritten: Vec<u8>,
}

impl Screen {
    /// Takes over stderr. With `quiet` only the lines of [`Screen::say`] are printed.
    pub(crate) fn new(quiet: bool, bars: Bars, color: bool, unicode: bool) -> Self {
        let terminal = isatty(stderr());
        // Emacs' shell says `dumb`, and prints escape codes as text.
        let steerable = terminal && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        let medium = match (quiet, bars, steerable) {
            (true, ..) => Medium::Quiet,
            (false, Bars::Off, _) => Medium::ReportOnly,
            (false, Bars::Auto, true) => Medium::Terminal,
            (false, ..) => Medium::Plain,
        };
        let pipe = || fstat(stderr()).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Fifo);
        let reopen = || {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            open("/proc/self/fd/2", flags, Mode::empty()).ok()
        };
        // By device: two terminals may be open, as with `2>/dev/pts/7`.
        let device = |fd| fstat(fd).map(|stat| stat.st_rdev);
        Screen {
            medium,
            color,
            unicode,
            // A file never blocks, and opened again it would be written from its beginning.
            own: if terminal || pipe() { reopen() } else { None },
            is_terminal: terminal,
            is_actions: !terminal && std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true"),
            owns_terminal: false,
            shares_stdout: terminal && isatty(stdout()) && device(stdout()) == device(stderr()),
            at_line_start: true,
            drawn: false,
            printed_tenths: Vec::new(),
            unwritten: Vec::new(),
        }
    }

    /// Whether forwarded text goes to the terminal that shows the bars.
    pub(crate) fn shares_stdout(&self) -> bool {
        self.shares_stdout && self.medium == Medium::Terminal
    }

    /// Whether bars are drawn, and not lines printed.
    pub(crate) fn draws_bars(&self) -> bool {
        self.medium == Medium::Terminal
    }

    /// Whether bars and report are wanted at all.
    pub(crate) fn is_quiet(&self) -> bool {
        self.medium == Medium::Quiet
    }

    /// How to render for this screen, at its present width.
    pub(crate) fn style(&self) -> Style {
        let width = match self.medium {
            // The last column is left free: some terminals wrap when it is written.
            Medium::Terminal => columns(stderr()).saturating_sub(1),
            Medium::Plain | Medium::ReportOnly | Medium::Quiet => usize::MAX,
        };
        Style { color: self.color, unicode: self.unicode, width }
    }

    /// How to render the report: for a terminal too where lines are printed and no bars drawn.
    pub(crate) fn report_style(&self) -> Style {
        let width = if self.is_terminal { columns(stderr()).saturating_sub(1) } else { usize::MAX };
        Style { width, ..self.style() }
    }

    /// Shows how the budgets stand. Returns whether something still waits for stderr.
    pub(crate) fn show(&mut self, frame: &Frame) -> bool {
        // Once stderr takes text again, the next frame is newer than this one.
        if !self.flush(Duration::ZERO) || self.is_in_background() {
            return true;
        }
        let draws = self.medium == Medium::Terminal && self.claim_terminal();
        match self.medium {
            Medium::Quiet | Medium::ReportOnly => {}
            _ if draws => {
                let rows = frame.lines.len();
                // Below the cursor, and not above as progress bars often are: the command and the next
                // program of the pipeline write to the same terminal and know nothing of the bars. Their
                // text goes on where it was, and none of it is lost when the window is resized.
                // IND and CUU make room below and come back; DECSC and DECRC keep the cursor.
                let mut text = format!("{}\x1b[{rows}A\x1b7\x1b[K", "\x1bD".repeat(rows));
                for line in &frame.lines {
                    let _ = write!(text, "\r\n{line}\x1b[K"); // EL: what was longer before
                }
                text.push_str("\x1b[J\x1b8"); // ED: what was below before
                self.drawn = true;
                self.put(&text, Duration::ZERO);
            }
            Medium::Plain | Medium::Terminal => {
                self.printed_tenths.resize(frame.tenths.len(), 0);
                let mut text = String::new();
                for ((line, &tenths), printed) in frame.lines.iter().zip(&frame.tenths).zip(&mut self.printed_tenths) {
                    if tenths > *printed {
                        *printed = tenths;
                        let _ = writeln!(text, "{line}");
                    }
                }
                self.put_lines(&text, Duration::ZERO);
            }
        }
        !self.unwritten.is_empty()
    }

    /// Whether bars may be drawn. Of several budget-tees on one terminal the first draws; the others
    /// print lines as they do without a terminal, until it has ended.
    fn claim_terminal(&mut self) -> bool {
        // By a lock on the terminal's device, which ends with its holder. Where no lock can be had, bars that
        // overlap are better than none.
        let lock = |own| flock(own, FlockOperation::NonBlockingLockExclusive);
        self.owns_terminal |= self.own.as_ref().is_none_or(|own| lock(own) != Err(Errno::WOULDBLOCK));
        self.owns_terminal
    }

    /// Whether another job is in front of the terminal: a shell's prompt, an editor.
    fn is_in_background(&self) -> bool {
        // Of a terminal that is not the controlling one this cannot be asked: then there are no jobs.
        self.is_terminal && tcgetpgrp(stderr()).is_ok_and(|front| front != getpgrp())
    }

    /// Erases the bars and lets others draw, since the terminal stops the job.
    pub(crate) fn suspend(&mut self) {
        self.make_way();
        if std::mem::take(&mut self.owns_terminal)
            && let Some(own) = &self.own
        {
            let _ = flock(own, FlockOperation::Unlock);
        }
    }

    /// Prints a message where there is no screen yet.
    pub fn say_only(text: &str) {
        let mut screen = Screen::new(true, Bars::Auto, false, false);
        screen.say(text, Severity::Error);
        screen.finish("");
    }

    /// Prints a message, with the program's name before each line; the bars make way.
    pub(crate) fn say(&mut self, text: &str, severity: Severity) {
        let fresh_line = self.fresh_line();
        self.at_line_start = true;
        let lines = match (self.is_actions, severity) {
            (false, _) => self.fitted(text.lines().map(|line| format!("budget-tee: {line}\n")).collect()),
            (true, Severity::Warning) => format!("::warning title=budget-tee::{}\n", annotation(text)),
            (true, Severity::Error) => format!("::error title=budget-tee::{}\n", annotation(text)),
        };
        self.put_lines(&(fresh_line + &lines), Duration::ZERO);
    }

    /// Prints the report in place of the bars, where it is wanted.
    pub(crate) fn finish(&mut self, report: &str) {
        let report = if self.is_quiet() { String::new() } else { self.fitted(report.to_owned()) };
        let text = self.fresh_line() + &report;
        self.put_lines(&text, REPORT_WAIT);
    }

    /// Lines as the terminal shows them without breaking words.
    fn fitted(&self, lines: String) -> String {
        if self.is_terminal { wrapped(&lines, columns(stderr())) } else { lines }
    }

    /// What removes the bars and ends a line of forwarded text that has not ended.
    fn fresh_line(&mut self) -> String {
        let ends_line = self.shares_stdout() && !self.at_line_start;

        self.erased().to_owned() + if ends_line { "\r\n" } else { "" }
    }

    /// Erases the bars for forwarded text on the same terminal.
    pub(crate) fn make_way(&mut self) {
        let erased = self.erased();
        self.put(erased, Duration::ZERO);
    }

    /// Forwarded text has been written to the same terminal; this was its last byte.
    pub(crate) fn passed(&mut self, last: u8) {
        self.at_line_start = last == b'\n';
    }

    /// What removes the bars from the terminal.
    fn erased(&mut self) -> &'static str {
        if std::mem::take(&mut self.drawn) { "\x1b[J" } else { "" } // ED
    }

    /// Writes complete lines; over the bars of another budget-tee, where it has the terminal.
    fn put_lines(&mut self, text: &str, wait: Duration) {
        if self.medium == Medium::Terminal && !self.owns_terminal {
            self.put(&text.replace('\n', "\x1b[K\n"), wait); // EL: the rest of a bar
        } else {
            self.put(text, wait);
        }
    }

    fn put(&mut self, text: &str, wait: Duration) {
        if self.unwritten.len() > UNWRITTEN_MAX {
            // What is new is dropped and not what waits, which may be a line that is half written.
            return;
        }
        self.unwritten.extend_from_slice(text.as_bytes());
        self.flush(wait);
    }

    /// Writes what stderr takes, and waits for it so long each time. Returns whether that was all.
    fn flush(&mut self, wait: Duration) -> bool {
        // Text would spoil what is in front, and with `stty tostop` the kernel would stop the whole job.
        if !self.unwritten.is_empty() && self.is_in_background() {
            return false;
        }
        let fd: BorrowedFd<'_> = self.own.as_ref().map_or(stderr(), |own| own.as_fd());
        let mut from = 0;
        while from < self.unwritten.len() {
            let until = self.unwritten.len().min(from + WRITE_MAX);
            if !is_writable(fd, wait) {
                break;
            }
            match write(fd, &self.unwritten[from..until]) {
                Ok(written) => from += written,
                Err(Errno::INTR | Errno::AGAIN) => {}
                // There is nowhere to report that stderr fails.
                Err(_) => from = self.unwritten.len(),
            }
        }
        self.unwritten.drain(..from);
        self.unwritten.is_empty()
    }
}

/// The width of a terminal.
// Asked each time, since the window may be resized.
fn columns(terminal: BorrowedFd<'_>) -> usize {
    let columns = tcgetwinsize(terminal).map_or(0, |size| usize::from(size.ws_col));
    if columns > 0 { columns } else { WIDTH_UNKNOWN }
}

/// The width for a report on stdout.
// At most the usual one: the report is read in files and mails too.
pub(crate) fn report_width() -> usize {
    if isatty(stdout()) { columns(stdout()).min(WIDTH_UNKNOWN) } else { WIDTH_UNKNOWN }
}

/// A text as a workflow command of GitHub Actions takes it.
fn annotation(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn is_writable(fd: BorrowedFd<'_>, wait: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let timeout = Timespec::try_from(wait).ok();
    match poll(&mut fds, timeout.as_ref()) {
        Ok(ready) => ready > 0,
        Err(error) => error == Errno::INTR,
    }
}
