//! Hooks: the commands of `--on-warn` and `--on-exceed`, each run once per budget.
//!
//! The shell runs a hook beside the stream, which never waits for it. Its environment describes the
//! budget; a failure of it is reported. Around a command, the child module reaps hooks too.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

use crate::amount::{Unit, dollars};
use crate::budget::{Budget, Threshold};
use crate::show::text::reason;

/// How long hooks may still take when everything else has ended.
// As long as the ledger is waited for: whoever waits for budget-tee must not wait for a hook that hangs.
pub(crate) const HOOKS_WAIT: Duration = Duration::from_secs(5);

/// The hooks of a run.
#[derive(Debug, Default)]
pub struct Hooks {
    on_warn: Option<String>,
    on_exceed: Option<String>,
    /// Those that have not ended, each with its option.
    running: Vec<(Pid, &'static str)>,
    /// The process groups of all that were started.
    groups: Vec<Pid>,
}

impl Hooks {
    pub(crate) fn new(on_warn: Option<String>, on_exceed: Option<String>) -> Self {
        Hooks { on_warn, on_exceed, ..Hooks::default() }
    }

    /// Runs the hook for a threshold that a budget has passed, where there is one. Returns what to report
    /// where it cannot be started.
    pub(crate) fn run(&mut self, threshold: Threshold, budget: &Budget) -> Option<String> {
        let (option, why, command) = match threshold {
            Threshold::WarnAt => ("--on-warn", "near", self.on_warn.as_ref()?),
            Threshold::Limit if budget.is_exceeded() => ("--on-exceed", "exceeded", self.on_exceed.as_ref()?),
            // Block mode stops before the call that would exceed it.
            Threshold::Limit => ("--on-exceed", "next-call", self.on_exceed.as_ref()?),
        };
        let figure = |value: u64| match budget.unit {
            Unit::Tokens => value.to_string(),
            Unit::Usd => dollars(value).to_string(),
        };
        let mut shell = Command::new("/bin/sh");
        let started = shell
            .args(["-c", command])
            .env("BUDGET_TEE_BUDGET_NAME", budget.name())
            .env("BUDGET_TEE_BUDGET_UNIT", budget.unit.to_string())
            .env("BUDGET_TEE_BUDGET_USED", figure(budget.used))
            .env("BUDGET_TEE_BUDGET_LIMIT", figure(budget.limit))
            .env("BUDGET_TEE_BUDGET_PERCENT", budget.percent().to_string())
            .env("BUDGET_TEE_BUDGET_REASON", why)
            // It must not take bytes from the stream, nor mix its own into what is forwarded.
            .stdin(Stdio::null())
            .stdout(io::stderr())
            // A group of its own: Ctrl-C on the pipeline must not keep the hook from reporting.
            .process_group(0)
            .spawn();
        match started {
            Ok(child) => {
                let pid = Pid::from_child(&child);
                self.running.push((pid, option));
                self.groups.push(pid);
            }
            Err(error) => return Some(format!("cannot run {option}: {}", reason(error))),
        }
        None
    }

    pub(crate) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.running.iter().map(|(pid, _)| *pid)
    }

    /// The process groups of all hooks so far, ended or not: what they left behind is still in them.
    pub(crate) fn groups(&self) -> &[Pid] {
        &self.groups
    }

    /// Reaps the hooks that have ended, for a filter. Returns what to report of those that failed.
    pub(crate) fn reap(&mut self) -> Vec<String> {
        let pids: Vec<_> = self.pids().collect();
        let mut messages = Vec::new();
        for pid in pids {
            // By pid, and not any child: the process may have children from before exec, which are not ours.
            match waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => messages.extend(self.ended(pid, status)),
                // It is gone, and how it ended is not known.
                Err(Errno::CHILD) => self.running.retain(|(hook, _)| *hook != pid),
                _ => {}
            }
        }
        messages
    }

    /// Takes in that a process has ended. Returns what to report where it was a hook and has failed.
    pub(crate) fn ended(&mut self, pid: Pid, status: WaitStatus) -> Option<String> {
        let at = self.running.iter().position(|(hook, _)| *hook == pid)?;
        let option = self.running.swap_remove(at).1;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => None,
            (Some(code), _) => Some(format!("the command of {option} failed with exit code {code}")),
            (_, signal) => Some(format!("the command of {option} was ended by signal {}", signal.unwrap_or_default())),
        }
    }

    /// Leaves alone the hooks that still run. Returns what to report of them.
    pub(crate) fn abandon(&mut self) -> Vec<String> {
        self.running
            .drain(..)
            .map(|(_, option)| format!("the command of {option} is still running and is left alone"))
            .collect()
    }
}
