//! Calls of the server, and why they fail.

use std::time::Duration;

use redis::{Client, Connection, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind};

use crate::ledger::mailbox::PATIENCE;
use crate::ledger::redis::address::Address;
use crate::ledger::redis::protocol::{Answer, Call};
use crate::ledger::store::{Failure, Retry};
use crate::show::text::{because, clean, without_number};

/// A server, and the connection to it.
pub(crate) struct ServerClient {
    client: Client,
    script: Script,
    prefix: String,
    connection: Option<Connection>,
    /// The ledger, as it is shown.
    pub(crate) location: String,
}

impl ServerClient {
    /// Prepares to call the server at `address`.
    pub(crate) fn new(address: &Address) -> RedisResult<Self> {
        Ok(ServerClient {
            client: Client::open(address.info.clone())?,
            script: Script::new(include_str!("script.lua")),
            prefix: address.prefix.clone(),
            connection: None,
            location: address.to_string(),
        })
    }

    /// Whether the next call begins a new connection.
    pub(crate) fn is_fresh(&self) -> bool {
        self.connection.is_none()
    }

    /// Calls the server once.
    pub(crate) fn call(&mut self, call: &Call<'_>) -> RedisResult<Answer> {
        let result = self.try_call(call);
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    fn try_call(&mut self, call: &Call<'_>) -> RedisResult<Answer> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let connection = self.client.get_connection_with_timeout(PATIENCE)?;
                connection.set_read_timeout(Some(PATIENCE))?;
                connection.set_write_timeout(Some(PATIENCE))?;
                none.insert(connection)
            }
        };
        let call = serde_json::to_string(call).map_err(std::io::Error::from)?;
        self.script.key(&self.prefix).arg(call).invoke(connection)
    }

    /// An error as people read it.
    pub(crate) fn failure(&self, error: &RedisError) -> Failure {
        let is_io = error.kind() == ErrorKind::Io;
        let text = match error.kind() {
            ErrorKind::Io if error.is_timeout() => silent(PATIENCE),
            ErrorKind::Io if error.is_connection_dropped() && !error.is_connection_refusal() => {
                "the server closes the connection".to_owned()
            }
            ErrorKind::Io => without_number(&error.to_string()),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => "unreadable answer; is it a Redis server?".to_owned(),
            _ => error.detail().unwrap_or(error.category()).to_owned(),
        };
        // The server adds the script's line and hash, which help nobody.
        let text = text.split(" script: ").next().unwrap_or_default().trim_end_matches('.');
        let wants_password =
            error.kind() == ErrorKind::AuthenticationFailed || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
        let why = clean(text) + if wants_password { " (BUDGET_TEE_LEDGER_PASSWORD)" } else { "" };
        let doing = if is_io { "reach" } else { "use" };
        let message = because(format_args!("cannot {doing} ledger {}", self.location), why);
        Failure { message, retry: if is_final(error) { Retry::Later } else { Retry::Soon } }
    }
}

impl std::fmt::Debug for ServerClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.location)
    }
}

fn silent(time: Duration) -> String {
    format!("no answer for {} s", time.as_secs())
}

/// Whether it may be gone with the next try.
pub(crate) fn is_hiccup(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Io && !error.is_timeout() && !error.is_connection_refusal()
}

/// Whether trying again at once would fail the same way: nobody is there, or the server refuses.
fn is_final(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io => !error.is_timeout() && (error.is_connection_refusal() || !error.is_connection_dropped()),
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::TryAgain) => false,
        _ => true,
    }
}
