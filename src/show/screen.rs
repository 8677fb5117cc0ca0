//! The screen: the one owner of stderr.
//!
//! On a terminal the bars stand below the cursor, which stays where it was: whatever else writes to
//! the terminal (the command, or the next in the pipe) goes on there, and no line of it is lost, be
//! the window resized or not. Elsewhere a line comes when a budget enters a new tenth. Nothing here
//! can fail and nothing waits for long: what stderr does not take is dropped, so that a full disk, a
//! closed descriptor or a reader that has stalled costs no data and no time.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::{Errno, write};
use rustix::stdio::{stderr, stdout};
use rustix::termios::{isatty, tcgetwinsize};

use crate::show::report::{Frame, Style};

/// What a pipe takes without blocking once poll has called it writable (`PIPE_BUF`).
const WRITE_MAX: usize = 4096;

/// What waits for stderr at most, give or take a line, in bytes.
const UNWRITTEN_MAX: usize = 64 * 1024;

/// How long the last words may wait for a reader of stderr.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Columns where nobody tells, and where there is no terminal.
const WIDTH_UNKNOWN: usize = 80;

/// Whether bars and report are wanted, and in which way stderr can show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Quiet,
    Plain,
    Terminal,
}

/// Stderr, and what stands on it.
#[derive(Debug)]
pub struct Screen {
    kind: Kind,
    color: bool,
    unicode: bool,
    /// Stderr opened once more, so that it does not block, without touching the flags that other
    /// processes share; `None` where that cannot be done or is not needed.
    own: Option<OwnedFd>,
    /// No other budget-tee draws on this terminal: this one has its lock.
    has_terminal: bool,
    /// Stdout is the same terminal.
    shares_stdout: bool,
    /// Forwarded text on the same terminal has ended with a newline.
    at_line_start: bool,
    /// Bars stand below the cursor.
    drawn: bool,
    /// The tenths last told, where there is no terminal.
    told: Vec<u64>,
    /// What stderr has not taken yet.
    unwritten: Vec<u8>,
}

impl Screen {
    /// Takes stderr over. `quiet` leaves only what is said with [`Screen::say`].
    #[must_use]
    pub fn new(quiet: bool, color: bool, unicode: bool) -> Self {
        let terminal = isatty(stderr());
        let steerable = terminal && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        let kind = match (quiet, steerable) {
            (true, _) => Kind::Quiet,
            (false, true) => Kind::Terminal,
            (false, false) => Kind::Plain,
        };
        let pipe = || fstat(stderr()).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Fifo);
        let reopen = || {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            open("/proc/self/fd/2", flags, Mode::empty()).ok()
        };
        let device = |fd| fstat(fd).map(|stat| stat.st_rdev);
        Screen {
            kind,
            color,
            unicode,
            own: if terminal || pipe() { reopen() } else { None },
            has_terminal: false,
            shares_stdout: terminal && isatty(stdout()) && device(stdout()) == device(stderr()),
            at_line_start: true,
            drawn: false,
            told: Vec::new(),
            unwritten: Vec::new(),
        }
    }

    /// Whether forwarded text goes to the terminal that shows the bars.
    #[must_use]
    pub fn shares_stdout(&self) -> bool {
        self.shares_stdout && self.kind == Kind::Terminal
    }

    /// Whether bars and report are wanted at all.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.kind == Kind::Quiet
    }

    /// How to render for this screen, at its present width.
    #[must_use]
    pub fn style(&self) -> Style {
        let width = match self.kind {
            // The last column is left free: some terminals wrap when it is written.
            Kind::Terminal => self.columns().saturating_sub(1),
            Kind::Plain | Kind::Quiet => usize::MAX,
        };
        Style { color: self.color, unicode: self.unicode, width }
    }

    /// Shows how the budgets stand.
    pub fn show(&mut self, frame: &Frame) {
        // Where stderr is behind, what it would show is old already.
        if !self.flush(Duration::ZERO) {
            return;
        }
        let draws = self.kind == Kind::Terminal && self.takes_terminal();
        match self.kind {
            Kind::Quiet => {}
            _ if draws => {
                let rows = frame.lines.len();
                // IND and CUU make room below and come back; DECSC and DECRC keep the cursor.
                let mut text = format!("{}\x1b[{rows}A\x1b7\x1b[K", "\x1bD".repeat(rows));
                for line in &frame.lines {
                    let _ = write!(text, "\r\n{line}\x1b[K"); // EL: what was longer before
                }
                text.push_str("\x1b[J\x1b8"); // ED: what was below before
                self.drawn = true;
                self.put(&text, Duration::ZERO);
            }
            Kind::Plain | Kind::Terminal => {
                self.told.resize(frame.tenths.len(), 0);
                let mut text = String::new();
                for ((line, &tenths), told) in frame.lines.iter().zip(&frame.tenths).zip(&mut self.told) {
                    if tenths > *told {
                        *told = tenths;
                        let _ = writeln!(text, "{line}");
                    }
                }
                self.put_lines(&text, Duration::ZERO);
            }
        }
    }

    /// Whether bars may be drawn: of several budget-tees on one terminal one draws, the others print
    /// lines as they do without a terminal, until that one has ended.
    fn takes_terminal(&mut self) -> bool {
        self.has_terminal = self.has_terminal
            || self
                .own
                .as_ref()
                .is_none_or(|own| flock(own, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK));
        self.has_terminal
    }

    /// Says a line on stderr, where nothing else is going on.
    pub fn say_only(text: &str) {
        let mut screen = Screen::new(true, false, false);
        screen.say(text);
        screen.finish("");
    }

    /// Says a line, with the program's name before it; bars make way.
    pub fn say(&mut self, text: &str) {
        let erased = self.erased();
        let fresh_line = if self.shares_stdout() && !self.at_line_start { "\r\n" } else { "" };
        self.at_line_start = true;
        self.put_lines(&format!("{erased}{fresh_line}budget-tee: {text}\n"), Duration::ZERO);
    }

    /// Ends with the report, in place of the bars, where it is wanted.
    pub fn finish(&mut self, report: &str) {
        let erased = self.erased();
        let fresh_line = if self.shares_stdout() && !self.at_line_start { "\r\n" } else { "" };
        let report = if self.is_quiet() { "" } else { report };
        self.put_lines(&format!("{erased}{fresh_line}{report}"), LAST_WORDS);
    }

    /// Makes way for forwarded text on the same terminal.
    pub fn make_way(&mut self) {
        let erased = self.erased();
        self.put(erased, Duration::ZERO);
    }

    /// Forwarded text has been written to the same terminal; this was its last byte.
    pub fn passed(&mut self, last: u8) {
        self.at_line_start = last == b'\n';
    }

    fn columns(&self) -> usize {
        let told = tcgetwinsize(stderr()).map(|size| usize::from(size.ws_col));
        told.ok().filter(|&columns| columns > 0).unwrap_or(WIDTH_UNKNOWN)
    }

    /// What removes the bars from the terminal.
    fn erased(&mut self) -> &'static str {
        if std::mem::take(&mut self.drawn) { "\x1b[J" } else { "" } // ED
    }

    /// Whether stderr has yet to take something.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Puts whole lines; over the bars of another budget-tee, where it has the terminal.
    fn put_lines(&mut self, text: &str, wait: Duration) {
        if self.kind == Kind::Terminal && !self.has_terminal {
            self.put(&text.replace('\n', "\x1b[K\n"), wait); // EL: the rest of a bar
        } else {
            self.put(text, wait);
        }
    }

    fn put(&mut self, text: &str, wait: Duration) {
        if self.unwritten.len() > UNWRITTEN_MAX {
            return;
        }
        self.unwritten.extend_from_slice(text.as_bytes());
        self.flush(wait);
    }

    /// Writes what stderr takes, waiting so long for it; returns whether that was all.
    fn flush(&mut self, wait: Duration) -> bool {
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
                // Nobody can be told that nobody can be told.
                Err(_) => from = self.unwritten.len(),
            }
        }
        self.unwritten.drain(..from);
        self.unwritten.is_empty()
    }
}

fn is_writable(fd: BorrowedFd<'_>, wait: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let timeout = Timespec::try_from(wait).ok();
    match poll(&mut fds, timeout.as_ref()) {
        Ok(ready) => ready > 0,
        Err(error) => error == Errno::INTR,
    }
}
