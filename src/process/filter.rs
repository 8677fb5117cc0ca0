//! The filter: forwards stdin to stdout, and ends whoever writes to stdin where block mode stops.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::stdio::stdin;

use crate::error::Exit;
use crate::process::job::Job;
use crate::process::kill::{Ending, KillPolicy, sent_to};
use crate::process::signals::{self, Signals};
use crate::process::tree::Process;
use crate::process::watch::Watch;
use crate::process::writers::{Pipe, Writer};
use crate::stream::relay::End;

/// How often to look whether writers that were signalled have ended.
const STEP: Duration = Duration::from_millis(10);

/// How often to look for further writers: a loop may have started its next round.
// Looking reads the descriptors of every process of this user, which takes milliseconds.
const SEARCH: Duration = Duration::from_millis(200);

/// Forwards stdin to stdout until the stream ends, block mode stops it, or a signal comes.
pub fn filter(job: &mut Job, policy: KillPolicy) -> io::Result<Exit> {
    let signals = Signals::catch(signals::FILTER)?;
    // Before the relay closes stdin.
    let pipe = Pipe::of(stdin());
    let mut watch = Watch::start(job, signals, stdin(), true)?;
    loop {
        let news = watch.wait(None, None, false)?;
        watch.job.run_hooks();
        watch.job.reap_hooks();
        let exit = match (news.end, news.end_signal()) {
            (None, None) => continue,
            // Ctrl-C ends the writer too: its end and the signal come together, and the signal is why.
            (None | Some(End::Stream), Some(signal)) => return Ok(Exit::Signal(signal)),
            (Some(End::Stream), None) => Exit::Done,
            (Some(End::Stopped), _) => Exit::Stopped,
            (Some(End::ReaderGone), _) => Exit::ReaderGone,
            (Some(End::Unreadable(_) | End::Unwritable(_)), _) => Exit::Failed,
        };
        if let (Exit::Stopped, Some(pipe), Some(first)) = (exit, pipe, policy.signal) {
            Writers { watch: &mut watch, pipe, policy, found: Vec::new(), passing: Vec::new() }.end(first)?;
        }
        // Whoever sent a signal does not wait for hooks.
        return if news.end_signal().is_some() { Ok(exit) } else { watch.await_hooks(exit, Job::reap_hooks) };
    }
}

/// The writers of the filter's input, which are to be ended.
struct Writers<'a, 'b> {
    watch: &'a mut Watch<'b>,
    pipe: Pipe,
    policy: KillPolicy,
    found: Vec<Process>,
    /// Writers that may be gone in a moment: they are signalled where the next search finds them again.
    passing: Vec<Process>,
}

impl Writers<'_, '_> {
    /// Sends the `first` signal, and TERM and KILL to those that do not go. Returns once none is left,
    /// their time is over, or budget-tee itself is told to end.
    fn end(&mut self, first: Signal) -> io::Result<()> {
        let mut ending = Ending::new(first, self.policy.grace, Instant::now());
        self.search(first);
        let mut searched = Instant::now();
        // Without a grace nothing would follow, and a writer may ignore the signal for ever.
        while ending.due.is_some() {
            self.found.retain(|writer| self.pipe.is_writer(writer));
            let none_known = self.found.is_empty() && self.passing.is_empty();
            if none_known || searched.elapsed() >= SEARCH {
                self.search(ending.sent);
                searched = Instant::now();
            }
            if self.found.is_empty() && self.passing.is_empty() {
                return Ok(());
            }
            let now = Instant::now();
            if ending.take_due(now) {
                let Some(signal) = ending.next() else {
                    self.watch.job.say("some writers have not ended even after KILL");
                    return Ok(());
                };
                self.found.iter().for_each(|writer| self.pipe.signal_writer(writer, signal));
                let sent = sent_to(signal, self.found.len());
                self.watch.job.say(&format!("the writer has not ended; {sent}"));
                ending = Ending::new(signal, self.policy.grace, now);
            }
            let news = self.watch.wait(Some(STEP), None, false)?;
            self.watch.job.reap_hooks();
            if news.end_signal().is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Finds writers, and sends `signal` to those that were not known.
    fn search(&mut self, signal: Signal) {
        let before = std::mem::take(&mut self.passing);
        let known = |list: &[Process], writer: &Process| list.iter().any(|known| known.is(writer));
        for Writer { process, is_passing } in self.pipe.writers() {
            if known(&self.found, &process) {
                continue;
            }
            if is_passing && !known(&before, &process) {
                self.passing.push(process);
            } else {
                self.pipe.signal_writer(&process, signal);
                self.found.push(process);
            }
        }
    }
}
