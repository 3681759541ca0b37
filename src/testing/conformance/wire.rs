//! How requests get to a service, and answers back.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long the client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request, as it is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireRequest {
    /// Its method.
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// Its headers, each a line, in their order; neither `Host` nor `Content-Length`.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// An answer, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireAnswer {
    /// Its status.
    pub status: u16,
    /// Its headers, with names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl WireAnswer {
    /// The value of a header, if it is there once.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_slice());
        values.next().filter(|_| values.next().is_none())
    }
}

/// Whatever sends requests.
pub trait Client {
    /// Sends all of these at once, each on a connection of its own, and returns their answers in the same order.
    ///
    /// # Errors
    ///
    /// Those of the connections.
    fn send(&self, requests: &[WireRequest]) -> io::Result<Vec<WireAnswer>>;
}

/// The suite's own client: bare connections.
#[derive(Debug, Clone)]
pub struct Sockets {
    address: String,
}

impl Sockets {
    /// A client of the service at this address, `host:port`.
    pub fn to(address: impl Into<String>) -> Self {
        Self { address: address.into() }
    }

    fn begin(&self, request: &WireRequest) -> io::Result<TcpStream> {
        let mut connection = TcpStream::connect(&self.address)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let WireRequest { method, target, headers, body } = request;
        let (host, length) = (&self.address, body.len());
        let mut bytes =
            format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(b"connection: close\r\n\r\n");
        bytes.extend(body);
        // A service may answer, and close, before it has read all of a body that is too large.
        match connection.write_all(&bytes) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Err(error)
            }
            _ => Ok(connection),
        }
    }
}

impl Client for Sockets {
    fn send(&self, requests: &[WireRequest]) -> io::Result<Vec<WireAnswer>> {
        let begun: Vec<TcpStream> = requests.iter().map(|request| self.begin(request)).collect::<io::Result<_>>()?;
        begun.into_iter().map(answer).collect()
    }
}

fn answer(mut connection: TcpStream) -> io::Result<WireAnswer> {
    let mut bytes = Vec::new();
    let read = connection.read_to_end(&mut bytes);
    match parse(&bytes) {
        Some(answer) => Ok(answer),
        None => Err(read.err().unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no answer"))),
    }
}

/// The answer that these bytes are, if it is whole.
fn parse(bytes: &[u8]) -> Option<WireAnswer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, rest) = (bytes.get(..end)?, bytes.get(end + 4..)?);
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let status = std::str::from_utf8(lines.next()?).ok()?.split(' ').nth(1)?.parse().ok()?;
    if status == 100 {
        return parse(rest);
    }
    let header = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8_lossy(line.get(..colon)?).to_ascii_lowercase();
        Some((name, line.get(colon + 1..)?.trim_ascii().to_vec()))
    };
    let headers: Vec<_> = lines.map(header).collect::<Option<_>>()?;
    let answer = WireAnswer { status, headers, body: Vec::new() };
    let body = match (answer.header("transfer-encoding"), answer.header("content-length")) {
        _ if matches!(status, 204 | 304) => Vec::new(),
        (Some(_), _) => dechunked(rest)?,
        (None, Some(length)) => {
            let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
            rest.get(..length)?.to_vec()
        }
        (None, None) => rest.to_vec(),
    };
    Some(WireAnswer { body, ..answer })
}

/// A body of chunks, put together; none where its end is not there.
fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let length = std::str::from_utf8(rest.get(..end)?).ok()?.split(';').next()?;
        let length = usize::from_str_radix(length.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        let begin = end + 2;
        body.extend(rest.get(begin..begin.checked_add(length)?)?);
        rest = rest.get(begin + length + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let fixed = b"HTTP/1.1 201 Created\r\nLink: <a>\r\nlink: <b>\r\ncontent-length: 2\r\n\r\nok";
        let answer = parse(fixed).unwrap();
        assert_eq!((answer.status, answer.body.as_slice(), answer.header("link")), (201, &b"ok"[..], None));
        let chunked = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
            2\r\nok\r\n3;x=y\r\nay!\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().body, b"okay!");
        for length in 0..fixed.len() {
            assert!(parse(&fixed[..length]).is_none(), "{length}");
        }
        assert!(parse(&chunked[..chunked.len() - 5]).is_none());
    }
}
