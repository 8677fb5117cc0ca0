//! The part of HTTP that one client on the loopback needs: a request with a length, and a response that is
//! either JSON or a chunked stream of server-sent events. Every connection carries one request.
//!
//! No crate does this: the mock must break the connection in the middle of a chunked response, and tiny_http
//! does not give access to the socket. hyper would bring an async runtime for a hundred lines.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

/// A request: what the mock needs of it.
pub struct Request {
    pub method: String,
    /// The path without its query; `host:port` or a URL in a request to a proxy.
    pub target: String,
    pub body: Vec<u8>,
}

impl Request {
    /// Reads one request; none if the client hangs up first.
    pub fn read(stream: &TcpStream) -> Result<Option<Request>> {
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut words = first.split_ascii_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(Error::from(ErrorKind::InvalidData));
        };
        let target = target.split('?').next().unwrap_or_default().to_owned();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().map_err(Error::other)?;
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(Some(Request { method: method.to_owned(), target, body }))
    }
}

/// Sends a JSON response.
pub fn send_json(mut stream: &TcpStream, status: u16, value: &Value) -> Result<()> {
    let body = value.to_string();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
}

/// A response of server-sent events, in chunks, so that the client can tell its end from a broken connection.
pub struct Events<'a> {
    stream: &'a TcpStream,
}

impl<'a> Events<'a> {
    pub fn begin(mut stream: &'a TcpStream) -> Result<Events<'a>> {
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\
            connection: close\r\n\r\n",
        )?;
        Ok(Events { stream })
    }

    /// Sends one event; its name is the `type` of its data.
    pub fn send(&mut self, data: &Value) -> Result<()> {
        let name = data["type"].as_str().unwrap_or_default();
        let event = format!("event: {name}\ndata: {data}\n\n");
        // In one write, so that no packet ends inside an event.
        self.stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
    }

    pub fn end(self) -> Result<()> {
        let mut stream = self.stream;
        stream.write_all(b"0\r\n\r\n")
    }

    /// Waits until the client hangs up.
    pub fn wait_for_hangup(self) {
        let mut stream = self.stream;
        let mut rest = [0; 64];
        while let Ok(1..) = stream.read(&mut rest) {}
    }

    /// Breaks the connection.
    pub fn cut(self) -> Result<()> {
        self.stream.shutdown(Shutdown::Both)
    }
}
