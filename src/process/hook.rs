//! Hooks: the commands of `--on-warn` and `--on-exceed`, each run once per budget.
//!
//! The shell runs a hook beside the stream, which never waits for it. A hook reads nothing, what it
//! prints goes to stderr, and its environment describes the budget; a failure of it is reported. Around
//! a command, the child module reaps hooks too, as it does everything that ends.

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
pub(crate) const HOOKS_WAIT: Duration = Duration::from_secs(5);

/// The commands of the options.
#[derive(Clone, Debug, Default)]
pub(crate) struct HookCommands {
    /// Run when a budget passes the share that `--warn-at` names.
    pub(crate) on_warn: Option<String>,
    /// Run when a budget is exceeded.
    pub(crate) on_exceed: Option<String>,
}

/// The hooks of a run.
#[derive(Debug, Default)]
pub struct Hooks {
    commands: HookCommands,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    option: &'static str,
    pid: Pid,
}

impl Hooks {
    /// Hooks that run these commands.
    pub(crate) fn new(commands: HookCommands) -> Self {
        Hooks { commands, running: Vec::new() }
    }

    /// Runs the hook for a threshold that a budget has passed, where there is one. Returns what to report
    /// where it cannot be started.
    pub(crate) fn run(&mut self, threshold: Threshold, budget: &Budget) -> Option<String> {
        let (option, why, command) = match threshold {
            Threshold::WarnAt => ("--on-warn", "near", self.commands.on_warn.as_ref()?),
            Threshold::Limit => ("--on-exceed", "exceeded", self.commands.on_exceed.as_ref()?),
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
            .stdin(Stdio::null())
            .stdout(io::stderr())
            // A group of its own: Ctrl-C on the pipeline must not keep the hook from reporting.
            .process_group(0)
            .spawn();
        match started {
            Ok(child) => self.running.push(Running { option, pid: Pid::from_child(&child) }),
            Err(error) => return Some(format!("cannot run {option}: {}", reason(error))),
        }
        None
    }

    /// The pids of the hooks that have not ended.
    pub(crate) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.running.iter().map(|hook| hook.pid)
    }

    /// Whether any has not ended.
    pub(crate) fn are_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Reaps the hooks that have ended, where nobody else reaps processes. Returns what to report of
    /// those that failed.
    pub(crate) fn reap(&mut self) -> Vec<String> {
        let pids: Vec<_> = self.pids().collect();
        let mut messages = Vec::new();
        for pid in pids {
            match waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => messages.extend(self.ended(pid, status)),
                // It is gone, and how it ended is not known.
                Err(Errno::CHILD) => self.running.retain(|hook| hook.pid != pid),
                _ => {}
            }
        }
        messages
    }

    /// Takes in that a process has ended. Returns what to report where it was a hook and has failed.
    pub(crate) fn ended(&mut self, pid: Pid, status: WaitStatus) -> Option<String> {
        let at = self.running.iter().position(|hook| hook.pid == pid)?;
        let option = self.running.swap_remove(at).option;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => None,
            (Some(code), _) => Some(format!("the command of {option} failed with exit code {code}")),
            (_, signal) => Some(format!("the command of {option} was ended by signal {}", signal.unwrap_or_default())),
        }
    }

    /// Leaves alone the hooks that still run. Returns what to report of them.
    pub(crate) fn abandon(&mut self) -> Vec<String> {
        self.running.drain(..).map(|hook| format!("the command of {} is still running", hook.option)).collect()
    }
}
