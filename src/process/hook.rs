//! Hooks: the commands of `--on-warn` and `--on-exceed`, once for each budget.
//!
//! A hook is run by the shell beside the stream, which never waits for it: it reads nothing, and
//! what it prints goes to stderr. It knows the budget by its environment. That it failed is said.
//! Around a command [`crate::process::child`] collects hooks too, as it does all that ends.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

use crate::amount::{Unit, micro};
use crate::budget::{Budget, Cause};
use crate::show::report::reason;

/// How long hooks may take when everything else has ended.
pub(crate) const LAST: Duration = Duration::from_secs(5);

/// The commands, as options gave them.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// Run when a budget passes the share that `--warn-at` names.
    pub on_warn: Option<String>,
    /// Run when a budget is exceeded.
    pub on_exceed: Option<String>,
}

/// The hooks of a run.
#[derive(Debug, Default)]
pub struct Hooks {
    commands: Commands,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    option: &'static str,
    pid: Pid,
}

impl Hooks {
    /// Hooks that run these commands.
    #[must_use]
    pub fn new(commands: Commands) -> Self {
        Hooks { commands, running: Vec::new() }
    }

    /// Runs what there is to run for this budget. Returns what to say where it cannot be started.
    pub fn run(&mut self, cause: Cause, budget: &Budget) -> Option<String> {
        let (option, why, command) = match cause {
            Cause::Near => ("--on-warn", "near", self.commands.on_warn.as_ref()?),
            Cause::Exceeded => ("--on-exceed", "exceeded", self.commands.on_exceed.as_ref()?),
        };
        let figure = |value: u64| match budget.unit {
            Unit::Tokens => value.to_string(),
            Unit::Usd => micro(value).to_string(),
        };
        let mut shell = Command::new("/bin/sh");
        #[cfg(feature = "redis")]
        shell.env_remove(crate::ledger::redis::address::HANDED_PASSWORD);
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
            // A signal to the pipeline is no reason not to tell of the budget.
            .process_group(0)
            .spawn();
        match started {
            Ok(child) => self.running.push(Running { option, pid: Pid::from_child(&child) }),
            Err(error) => return Some(format!("cannot run {option}: {}", reason(error))),
        }
        None
    }

    /// The processes of the hooks that have not ended.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.running.iter().map(|hook| hook.pid)
    }

    /// Whether any has not ended.
    #[must_use]
    pub fn are_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Collects the hooks that have ended, where nobody else collects processes. Returns what to say
    /// of those that failed.
    pub fn collect(&mut self) -> Vec<String> {
        let pids: Vec<_> = self.pids().collect();
        let mut words = Vec::new();
        for pid in pids {
            match waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => words.extend(self.ended(pid, status)),
                // It is gone, and nobody can tell how.
                Err(Errno::CHILD) => self.running.retain(|hook| hook.pid != pid),
                _ => {}
            }
        }
        words
    }

    /// Takes in that a process has ended. Returns what to say where it was a hook and has failed.
    pub fn ended(&mut self, pid: Pid, status: WaitStatus) -> Option<String> {
        let at = self.running.iter().position(|hook| hook.pid == pid)?;
        let option = self.running.swap_remove(at).option;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => None,
            (Some(code), _) => Some(format!("the command of {option} failed with exit code {code}")),
            (_, signal) => Some(format!("the command of {option} was ended by signal {}", signal.unwrap_or_default())),
        }
    }

    /// Gives up those that still run. Returns what to say of them.
    pub fn leave(&mut self) -> Vec<String> {
        self.running.drain(..).map(|hook| format!("the command of {} goes on", hook.option)).collect()
    }
}
