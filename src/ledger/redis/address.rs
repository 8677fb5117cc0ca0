//! The address of a ledger on a server: `redis://[[USER]:PASSWORD@]HOST[:PORT]/DB/NAME`, or `valkey:`.
//!
//! What is shown of it never has the password.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::ledger::SCHEMES;
use crate::show::report::clean;

/// The form wanted of an address.
const FORM: &str = "want redis://HOST[:PORT]/DB/NAME, or rediss:// for TLS; NAME of letters, digits and . _ -; what \
                    a password has else, as %XX";

/// The environment variable in which budget-tee hands itself a password that was in an argument. What
/// it runs does not get it.
pub(crate) const HANDED_PASSWORD: &str = "BUDGET_TEE_HANDED_PASSWORD";

/// A lease is this much longer than a run may go on without the server, so that what it holds is
/// still held.
const SPARE: Duration = Duration::from_secs(10);

/// Where a ledger is on which server, and on which terms.
#[derive(Clone)]
pub struct Address {
    shown: String,
    prefix: String,
    info: ConnectionInfo,
    /// How long a run in block mode goes on where the server is out of reach.
    pub(crate) grace: Duration,
    /// How long the ledger is kept when nobody uses it; zero is for ever, none is as it was.
    pub(crate) expiry: Option<Duration>,
}

impl Address {
    /// Parses an address. A `password` given apart is for one that has none in it.
    ///
    /// # Errors
    /// Where it does not have the form, in words that repeat nothing of it.
    pub fn parse(
        text: &str,
        password: Option<&str>,
        grace: Duration,
        expiry: Option<Duration>,
    ) -> Result<Self, String> {
        let scheme = SCHEMES.into_iter().find(|scheme| text.starts_with(scheme)).ok_or(FORM)?;
        let mut parts = text[scheme.len()..].splitn(3, '/');
        let (Some(authority), Some(db), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(FORM.to_owned());
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_number = !db.is_empty() && db.bytes().all(|digit| digit.is_ascii_digit());
        if name.is_empty() || !name.chars().all(is_plain) || !is_number {
            return Err(FORM.to_owned());
        }
        let info = format!("{scheme}{authority}/{db}").into_connection_info();
        let mut info = info.map_err(|_| "its host, port, database or user makes no sense".to_owned())?;
        if let Some(password) = password.filter(|_| info.redis_settings().password().is_none()) {
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        let settings = info.redis_settings();
        if settings.username().is_some() && settings.password().is_none() {
            return Err("it has a user and no password; give it in BUDGET_TEE_LEDGER_PASSWORD".to_owned());
        }
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (shown, prefix) = (clean(&format!("{scheme}{host}/{db}/{name}")), format!("budget-tee:{{{name}}}"));
        Ok(Address { shown, prefix, info, grace, expiry })
    }

    /// What the names of its keys begin with. The braces keep them together where a cluster or a
    /// proxy spreads keys.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn info(&self) -> ConnectionInfo {
        self.info.clone()
    }

    /// How long what a run holds is held after it was last heard of.
    pub(crate) fn lease(&self) -> Duration {
        self.grace.saturating_add(SPARE)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// An address without its password, and the password, where it has one.
fn without_password(text: &str) -> Option<(String, String)> {
    let address = Address::parse(text, None, Duration::ZERO, None).ok()?;
    let password = address.info.redis_settings().password()?.to_owned();
    let (scheme, rest) = text.split_once("://")?;
    let (authority, path) = rest.split_once('/')?;
    let (user, host) = authority.rsplit_once('@')?;
    let user = user.split_once(':').map_or("", |(name, _)| name);
    let at = if user.is_empty() { "" } else { "@" };
    Some((format!("{scheme}://{user}{at}{host}/{path}"), password))
}

/// Where an argument has the ledger's address with a password in it, everybody can read it there: runs
/// budget-tee anew, in this process, with the password in its environment. What is behind the options
/// is the `command`'s. Returns why that failed.
pub(crate) fn hide_password(ledger: &Path, command: &[OsString]) -> Option<io::Error> {
    let address = ledger.to_str()?;
    let (plain, password) = without_password(address)?;
    let args: Vec<_> = std::env::args_os().collect();
    let (own, command) = args.split_at(args.len().saturating_sub(command.len()));
    let hidden = own.iter().map(|arg| match arg.to_str().and_then(|arg| arg.strip_suffix(address)) {
        Some(before) => OsString::from(format!("{before}{plain}")),
        None => arg.clone(),
    });
    let mut args = hidden.chain(command.iter().cloned());
    let mut anew = Command::new("/proc/self/exe");
    anew.arg0(args.next().unwrap_or_default()).args(args).env(HANDED_PASSWORD, password);
    Some(anew.exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, String> {
        Address::parse(text, None, Duration::ZERO, None)
    }

    #[test]
    fn what_is_shown_has_no_password() {
        let shown = [
            ("redis://host:6379/0/nightly", "redis://host:6379/0/nightly"),
            ("redis://:secret@host/3/a.b-c_D", "redis://host/3/a.b-c_D"),
            ("rediss://me:se%40cret@[::1]:1/0/n", "rediss://[::1]:1/0/n"),
        ];
        for (text, want) in shown {
            let address = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((address.to_string(), format!("{address:?}")), (want.to_owned(), want.to_owned()));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_repeating_it() {
        let bad = [
            "redis://secret@/0/n",
            "redis://host",
            "redis://host/0",
            "redis://host/0/",
            "redis://host/secret/n",
            "redis://host/0/secret name",
            "redis://host/0/secret/two",
            "redis://host/0/secret?x=1",
            "redis://host:secret/0/n",
            "redis://host/99999999999999999999999/secret",
            "REDIS://host/0/secret",
            "redis:/host/0/secret",
            "redis://secret@host/0/n",
        ];
        for text in bad {
            let error = parse(text).err().unwrap_or_else(|| panic!("{text} is taken"));
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_password_can_be_taken_out() {
        let taken = without_password;
        let both = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(taken("redis://:se%2Fcret@host:1/0/n"), both("redis://host:1/0/n", "se/cret"));
        assert_eq!(taken("rediss://me:a:b@host/0/n"), both("rediss://me@host/0/n", "a:b"));
        assert_eq!(taken("redis://me@host/0/n"), None);
        assert_eq!(taken("valkeys://:x@host/0/n"), both("valkeys://host/0/n", "x"));
        assert_eq!(taken("spend.ndjson"), None);
    }
}
