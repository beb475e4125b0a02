//! The HTTP phase: GET up to the end of the response headers, over HTTP/2 with a window of 0 so
//! that no body is sent, or over HTTP/1.1. Only answers that a rule may want to look into have
//! their body read, up to what the rules see. It neither judges an answer nor follows a redirect.

use std::{error::Error as _, future::poll_fn, io, pin::pin, task::Poll, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tocsin_proto::{outcome::Outcome, rules::BODY_PREFIX_BYTES};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::{profile::Profile, tcp::Counted, tls};

/// What a page's request says it takes.
pub(super) const ACCEPT_PAGE: &str = "text/html,*/*;q=0.8";
/// What the second request says it takes, to hear from an edge whose fault it is (RFC 9457).
pub(super) const ACCEPT_PROBLEM: &str = "application/problem+json, application/json;q=0.9";

/// Response headers in bytes, in all. The largest honest ones (content security policies and
/// cookies) are near 20 kB.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// What a server may send of a body unasked in the classic profile: no window of 0, and little.
const CLASSIC_WINDOW_BYTES: u32 = 1024;
/// Response headers in number.
const HEADERS_MAX: usize = 128;

type Io = TlsStream<Counted>;

/// What is asked for.
pub(super) struct Ask<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) path: &'a str,
    pub(super) accept: &'a str,
    pub(super) user_agent: &'a str,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) version: &'static str,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut own = self.headers.iter().filter(|(key, _)| key == name);
        own.next().map(|(_, value)| value.as_str())
    }
}

/// A connection that requests can be sent on, one after the other.
pub(super) enum Session {
    Two { send: h2::client::SendRequest<Bytes>, connection: Box<H2>, window_open: bool },
    One { send: hyper::client::conn::http1::SendRequest<Empty<Bytes>>, connection: Box<Driven<H1>> },
}

type H2 = Driven<h2::client::Connection<Io, Bytes>>;
type H1 = hyper::client::conn::http1::Connection<TokioIo<Io>, Empty<Bytes>>;

/// A connection's own future, polled beside the request's, so that no task is needed.
pub(super) struct Driven<C> {
    connection: C,
    ended: bool,
}

impl<C: Future + Unpin> Driven<C> {
    async fn drive<F: Future>(&mut self, request: F) -> Option<F::Output> {
        let mut request = pin!(request);
        poll_fn(|cx| {
            if let Poll::Ready(output) = request.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if !self.ended && pin!(&mut self.connection).poll(cx).is_ready() {
                self.ended = true;
            }
            // What the connection just read may have completed the request. A request that still
            // waits on a connection that has ended would wait for ever.
            match request.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if self.ended => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

impl Session {
    /// Opens HTTP on the connection, in the version that TLS agreed on.
    pub(super) async fn open(stream: Io, profile: Profile) -> Result<Self, Outcome> {
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let mut builder = h2::client::Builder::new();
            builder.enable_push(false).max_header_list_size(HEADER_BYTES_MAX);
            match profile {
                Profile::Modern => builder.initial_window_size(0),
                Profile::Classic => {
                    builder.initial_window_size(CLASSIC_WINDOW_BYTES).header_table_size(0)
                }
            };
            let (send, connection) =
                builder.handshake(stream).await.map_err(|error| h2_outcome(&error))?;
            let connection = Box::new(Driven { connection, ended: false });
            return Ok(Self::Two { send, connection, window_open: false });
        }
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_headers(HEADERS_MAX).max_buf_size(HEADER_BYTES_MAX as usize);
        let (send, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|error| h1_outcome(&error))?;
        Ok(Self::One { send, connection: Box::new(Driven { connection, ended: false }) })
    }

    /// Asks once. Running out of time before the end of the headers is the failure; after it, the
    /// answer comes with as much of the body as was read.
    pub(super) async fn get(&mut self, ask: &Ask<'_>, left: Duration) -> Result<Answer, Outcome> {
        let mut answer = None;
        let exchanged = match self {
            Self::Two { send, connection, window_open } => {
                timeout(left, two(send, connection, window_open, ask, &mut answer)).await
            }
            Self::One { send, connection } => {
                timeout(left, one(send, connection, ask, &mut answer)).await
            }
        };
        match (answer, exchanged) {
            (Some(answer), _) => Ok(answer),
            (None, Ok(Err(outcome))) => Err(outcome),
            (None, Ok(Ok(()))) => Err(Outcome::HttpReset),
            (None, Err(_)) => Err(Outcome::HttpTimeout),
        }
    }
}

async fn two(
    send: &mut h2::client::SendRequest<Bytes>,
    connection: &mut H2,
    window_open: &mut bool,
    ask: &Ask<'_>,
    answer: &mut Option<Answer>,
) -> Result<(), Outcome> {
    let authority = authority(ask);
    let uri = Uri::builder().scheme("https").authority(authority).path_and_query(ask.path);
    let uri = uri.build().map_err(|_| Outcome::HttpProtocol)?;
    let request = Request::builder().version(Version::HTTP_2).method(Method::GET).uri(uri);
    let request = page_headers(request, ask).body(()).map_err(|_| Outcome::HttpProtocol)?;
    let ready = connection.drive(poll_fn(|cx| send.poll_ready(cx))).await;
    ready.ok_or(Outcome::HttpReset)?.map_err(|error| h2_outcome(&error))?;
    let (response, _) = send.send_request(request, true).map_err(|error| h2_outcome(&error))?;
    let response = connection.drive(response).await.ok_or(Outcome::HttpReset)?;
    let (head, mut body) = response.map_err(|error| h2_outcome(&error))?.into_parts();
    let wants_body = wants_body(head.status) && !body.is_end_stream();
    let answer = answer.insert(read_head(head.status, "h2", &head.headers));
    if !wants_body {
        return Ok(());
    }
    if !*window_open {
        *window_open = connection.open_window().await;
    }
    while answer.body.len() < BODY_PREFIX_BYTES {
        match connection.drive(poll_fn(|cx| body.poll_data(cx))).await {
            Some(Some(Ok(chunk))) => append(&mut answer.body, &chunk),
            _ => break,
        }
    }
    Ok(())
}

impl H2 {
    /// Lets the server send as much of a body as is read. That has to wait until it has
    /// acknowledged our first settings; `false` when the connection ended before.
    async fn open_window(&mut self) -> bool {
        const WINDOW: u32 = BODY_PREFIX_BYTES as u32;
        poll_fn(|cx| {
            if self.connection.set_initial_window_size(WINDOW).is_ok() {
                return Poll::Ready(true);
            }
            if self.ended || pin!(&mut self.connection).poll(cx).is_ready() {
                self.ended = true;
                return Poll::Ready(false);
            }
            match self.connection.set_initial_window_size(WINDOW) {
                Ok(()) => Poll::Ready(true),
                Err(_) => Poll::Pending,
            }
        })
        .await
    }
}

async fn one(
    send: &mut hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
    connection: &mut Driven<H1>,
    ask: &Ask<'_>,
    answer: &mut Option<Answer>,
) -> Result<(), Outcome> {
    let request = Request::builder().method(Method::GET).uri(ask.path);
    let request = page_headers(request.header(header::HOST, authority(ask)), ask);
    let request = request.body(Empty::new()).map_err(|_| Outcome::HttpProtocol)?;
    let ready = connection.drive(send.ready()).await;
    ready.ok_or(Outcome::HttpReset)?.map_err(|error| h1_outcome(&error))?;
    let response = connection.drive(send.send_request(request)).await;
    let response = response.ok_or(Outcome::HttpReset)?.map_err(|error| h1_outcome(&error))?;
    let (head, mut body) = response.into_parts();
    let answer = answer.insert(read_head(head.status, "http/1.1", &head.headers));
    if !wants_body(head.status) {
        return Ok(());
    }
    while answer.body.len() < BODY_PREFIX_BYTES {
        match connection.drive(body.frame()).await {
            Some(Some(Ok(frame))) => {
                if let Some(chunk) = frame.data_ref() {
                    append(&mut answer.body, chunk);
                }
            }
            _ => break,
        }
    }
    Ok(())
}

fn authority(ask: &Ask<'_>) -> String {
    if ask.port == 443 { ask.host.to_owned() } else { format!("{}:{}", ask.host, ask.port) }
}

fn page_headers(request: http::request::Builder, ask: &Ask<'_>) -> http::request::Builder {
    request.header(header::USER_AGENT, ask.user_agent).header(header::ACCEPT, ask.accept)
}

/// Failures, and the statuses that bot walls and rate limits use.
fn wants_body(status: StatusCode) -> bool {
    status.as_u16() >= 500 || matches!(status.as_u16(), 403 | 429)
}

fn read_head(status: StatusCode, version: &'static str, headers: &HeaderMap) -> Answer {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = headers.iter().take(HEADERS_MAX);
    let headers = headers.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Answer { status: status.as_u16(), version, headers, body: Vec::new() }
}

fn append(body: &mut Vec<u8>, chunk: &[u8]) {
    let room = BODY_PREFIX_BYTES.saturating_sub(body.len());
    body.extend(chunk.iter().take(room));
}

/// What a failure before the end of the headers means.
fn h2_outcome(error: &h2::Error) -> Outcome {
    if let Some(io) = error.get_io() {
        return io_outcome(io);
    }
    match error.reason() {
        // How h2 refuses headers past their limit.
        Some(h2::Reason::REFUSED_STREAM) if error.is_library() => Outcome::HttpTruncated,
        _ if error.is_remote() => Outcome::HttpReset,
        _ => Outcome::HttpProtocol,
    }
}

fn h1_outcome(error: &hyper::Error) -> Outcome {
    if error.is_parse_too_large() {
        return Outcome::HttpTruncated;
    }
    if error.is_parse() {
        return Outcome::HttpProtocol;
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(io) => io_outcome(io),
        None => Outcome::HttpReset,
    }
}

/// An alert may come after our side of the handshake is complete (RFC 8446 section 4.4.4).
fn io_outcome(error: &io::Error) -> Outcome {
    match tls::inner(error) {
        Some(rustls::Error::AlertReceived(_)) => Outcome::TlsAlert,
        Some(_) => Outcome::HttpProtocol,
        None if error.kind() == io::ErrorKind::TimedOut => Outcome::HttpTimeout,
        None => Outcome::HttpReset,
    }
}
