//! The address of a ledger on a server: `redis://[[USER]:PASSWORD@]HOST[:PORT]/DB/NAME`, `rediss:` for
//! TLS, or `valkey:`.

use std::fmt;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::show::text::{clean, with_note};

/// The schemes of an address: plain, and with TLS.
const SCHEMES: [&str; 4] = ["redis://", "rediss://", "valkey://", "valkeys://"];

/// The form wanted of an address.
const FORM: &str = "want redis://HOST[:PORT]/DB/NAME, or rediss:// for TLS\n\
                    note: NAME: letters, digits and . _ -; others in a password as %XX";

/// How much longer a lease is than a run may go on without the server.
// Its reservation is still held when it finds the server again.
const SPARE: Duration = Duration::from_secs(10);

/// Where a ledger is on which server, and how it is used.
#[derive(Clone)]
pub struct Address {
    shown: String,
    /// What the names of its keys begin with.
    pub(crate) prefix: String,
    /// What the client needs to connect, the password included.
    pub(crate) info: ConnectionInfo,
    /// How long a run in block mode goes on while the server is unreachable.
    pub(crate) grace: Duration,
    /// How long the ledger is kept when no run uses it: zero is for ever, `None` leaves it as it is.
    pub(crate) expiry: Option<Duration>,
}

impl Address {
    /// Parses an address; `password` is used where it has none in it.
    // The error repeats nothing of the address, which may hold a password in the wrong place: an unquoted
    // `/` or `@` in one moves its rest to the host or the path.
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
        // What stands in a key's name must not need quoting in redis-cli.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_number = !db.is_empty() && db.bytes().all(|digit| digit.is_ascii_digit());
        if name.is_empty() || !name.chars().all(is_plain) || !is_number {
            return Err(FORM.to_owned());
        }
        let info = format!("{scheme}{authority}/{db}").into_connection_info();
        let mut info = info.map_err(|_| "its host, port, database or user is invalid".to_owned())?;
        if let Some(password) = password.filter(|_| info.redis_settings().password().is_none()) {
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        let settings = info.redis_settings();
        if settings.username().is_some() && settings.password().is_none() {
            return Err(with_note("it has a user and no password", "set BUDGET_TEE_LEDGER_PASSWORD"));
        }
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        // The braces are a hash tag: a cluster keeps keys with the same one on one server, as a script needs.
        let (shown, prefix) = (clean(&format!("{scheme}{host}/{db}/{name}")), format!("budget-tee:{{{name}}}"));
        Ok(Address { shown, prefix, info, grace, expiry })
    }

    /// How long a reservation is held after its run was last heard of.
    pub(crate) fn lease(&self) -> Duration {
        self.grace.saturating_add(SPARE)
    }

    /// Whether an argument is an address with a password in it, or ends in one as `--ledger=ADDRESS` does.
    pub(crate) fn has_password(argument: &str) -> bool {
        let start = SCHEMES.into_iter().find_map(|scheme| argument.find(scheme));
        start
            .and_then(|start| Address::parse(&argument[start..], None, Duration::ZERO, None).ok())
            .is_some_and(|address| address.info.redis_settings().password().is_some())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

// Not derived: that would show the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, String> {
        Address::parse(text, None, Duration::ZERO, None)
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
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
    fn a_malformed_address_is_refused_without_repeating_it() {
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
            let error = parse(text).err().unwrap_or_else(|| panic!("{text} is accepted"));
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
