//! What one record says of a message.

use crate::count::tokens::Usage;

/// What one record says of a message.
#[derive(Default)]
pub(crate) struct Sighting<'a> {
    pub(crate) id: Option<&'a str>,
    pub(crate) parent: Option<&'a str>,
    pub(crate) model: Option<&'a str>,
    pub(crate) usage: Usage,
    /// It is a `message_start` event.
    pub(crate) starts: bool,
    /// It is an `assistant` record, whose model is the one that served the response.
    pub(crate) is_served: bool,
    pub(crate) aborted: bool,
    /// It asks for a tool.
    pub(crate) asks: bool,
}
