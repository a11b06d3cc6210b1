//! One probe of a backend: a TCP connect or an HTTP/1.1 GET, and what its end means.
//!
//! A probe ends by its deadline, whatever the backend does. Nothing that a backend sends gets into a reason except the
//! status. What is this host's own trouble (no file descriptors left, the agent held up) says nothing of the backend and
//! must not eject it.

use std::{error::Error as _, fmt, future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, error::Elapsed, timeout_at},
};

use crate::config::{Check, HealthCheck, StatusRange};

/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A deadline noticed so much later was missed by this process, perhaps along with the answer.
const HELD_UP_MIN: Duration = Duration::from_millis(100);

/// What to probe, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// The backend's, with the port of the check.
    address: SocketAddr,
    check: Arc<HealthCheck>,
}

/// Why a backend passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pass {
    Connected,
    Status(StatusCode),
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Status(status) => write!(f, "HTTP {}", status.as_u16()),
        }
    }
}

/// Why it did not pass, or why that cannot be said.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("connect refused")]
    Refused,
    #[error("connect failed: {0}")]
    Connect(io::Error),
    #[error("timed out after {}: no {missing}", Length(*after))]
    TimedOut { after: Duration, missing: &'static str },
    #[error("HTTP {}", .0.as_u16())]
    Status(StatusCode),
    #[error("connection closed before an answer")]
    Closed,
    #[error("connection failed: {0}")]
    Broken(io::Error),
    #[error("the answer is not HTTP/1")]
    NotHttp,
    #[error("the answer's head is larger than {} KiB or has too many fields", HEAD_BYTES_MAX / 1024)]
    HeadTooLarge,
    /// Not the backend's.
    #[error("this host cannot connect: {0}")]
    OwnTrouble(io::Error),
    /// Not the backend's.
    #[error("the agent was held up for {}", Length(*.0))]
    HeldUp(Duration),
    /// Not the backend's.
    #[error("cannot make the request: {0}")]
    Request(#[from] hyper::http::Error),
}

impl Failure {
    /// Whether it says something of the backend.
    pub(super) const fn counts(&self) -> bool {
        !matches!(self, Self::OwnTrouble(_) | Self::HeldUp(_) | Self::Request(_))
    }

    fn of_connect(error: io::Error) -> Self {
        const OWN: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            // By a rule of this host's own firewall.
            io::ErrorKind::PermissionDenied => Self::OwnTrouble(error),
            _ if error.raw_os_error().is_some_and(|code| OWN.contains(&code)) => Self::OwnTrouble(error),
            _ => Self::Connect(error),
        }
    }

    fn of_exchange(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            return Self::HeadTooLarge;
        }
        if error.is_parse() {
            return Self::NotHttp;
        }
        match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(io_error) => Self::Broken(io_error.kind().into()),
            None => Self::Closed,
        }
    }

    /// The deadline has passed, and was noticed so much later.
    const fn timed_out(after: Duration, late: Duration, missing: &'static str) -> Self {
        if late.as_nanos() >= HELD_UP_MIN.as_nanos() { Self::HeldUp(late) } else { Self::TimedOut { after, missing } }
    }
}

/// A length of time as in "1 s" or "250 ms".
struct Length(Duration);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            whole if whole % 1000 == 0 => write!(f, "{} s", whole / 1000),
            ms => write!(f, "{ms} ms"),
        }
    }
}

impl Plan {
    pub(super) fn new(backend: SocketAddr, check: Arc<HealthCheck>) -> Self {
        let port = check.port.unwrap_or(backend.port());
        Self { address: SocketAddr::new(backend.ip(), port), check }
    }
}

/// Probes once.
pub(super) async fn probe(plan: &Plan) -> Result<Pass, Failure> {
    let deadline = Instant::now() + plan.check.timeout;
    let in_time = |missing| move |_: Elapsed| Failure::timed_out(plan.check.timeout, deadline.elapsed(), missing);
    let connect = TcpStream::connect(plan.address);
    let stream = timeout_at(deadline, connect).await.map_err(in_time("connection"))?.map_err(Failure::of_connect)?;
    match &plan.check.check {
        Check::Tcp => Ok(Pass::Connected),
        Check::Http { path, host, expect } => {
            let host = host.clone().unwrap_or_else(|| plan.address.to_string());
            let exchange = get(stream, path, &host);
            let status = timeout_at(deadline, exchange).await.map_err(in_time("answer"))??;
            judge(status, *expect)
        }
    }
}

fn judge(status: StatusCode, expect: StatusRange) -> Result<Pass, Failure> {
    if expect.contains(status.as_u16()) { Ok(Pass::Status(status)) } else { Err(Failure::Status(status)) }
}

/// The status of the answer. Its body is not waited for, and redirects are not followed.
async fn get(stream: TcpStream, path: &str, host: &str) -> Result<StatusCode, Failure> {
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("grayxdp/", env!("CARGO_PKG_VERSION"), " (health check)"))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::of_exchange(&error))?;
    let answer = driven_by(connection, sender.send_request(request)).await;
    Ok(answer.map_err(|error| Failure::of_exchange(&error))?.status())
}

/// What a future comes to that needs another one to be polled beside it.
async fn driven_by<T>(driver: impl Future, future: impl Future<Output = T>) -> T {
    let (driver, mut future) = (pin!(driver), pin!(future));
    tokio::select! {
        value = &mut future => value,
        _ = driver => future.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpSocket},
    };

    use super::*;
    use crate::decide::health::Rules;

    const SHORT: Duration = Duration::from_millis(60);
    /// Nothing that is expected to end before takes so long.
    const LONG: Duration = Duration::from_secs(20);

    fn plan(address: SocketAddr, check: Check, timeout: Duration) -> Plan {
        let check = HealthCheck { check, port: None, timeout, rules: Rules::new(LONG, 1, 1) };
        Plan::new(address, Arc::new(check))
    }

    fn http(expect: &str, host: Option<&str>) -> Check {
        Check::Http {
            path: "/healthz?a=1".to_owned(),
            host: host.map(str::to_owned),
            expect: StatusRange::parse(expect).expect(expect),
        }
    }

    /// What a probe says of itself; one that the machine held up says nothing, and is repeated.
    async fn said(plan: &Plan) -> Result<String, String> {
        loop {
            match probe(plan).await {
                Ok(pass) => return Ok(pass.to_string()),
                Err(Failure::HeldUp(_)) => {}
                Err(failure) => {
                    assert!(failure.counts(), "{failure}");
                    return Err(failure.to_string());
                }
            }
        }
    }

    /// A server that answers every connection alike: it reads a request's head, writes, and then closes or waits.
    async fn server(answer: &str, then: Then) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("bound");
        let answer = answer.to_owned();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let answer = answer.clone();
                tokio::spawn(async move {
                    read_head(&mut stream).await;
                    // The probe may have gone by then.
                    let _ = stream.write_all(answer.as_bytes()).await;
                    if then == Then::Wait {
                        tokio::time::sleep(LONG).await;
                    }
                });
            }
        });
        address
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Then {
        Close,
        Wait,
    }

    async fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(head).expect("ASCII")
    }

    /// A port that stays taken though nobody listens on it, as long as the socket lives.
    fn nobody() -> (TcpSocket, SocketAddr) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port is free");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    }

    #[tokio::test]
    async fn whoever_accepts_passes_a_tcp_check_even_if_silent() {
        let listener = TcpListener::bind("[::1]:0").await.expect("a port is free");
        let address = listener.local_addr().expect("bound");
        assert_eq!(said(&plan(address, Check::Tcp, LONG)).await, Ok("connected".to_owned()));
    }

    #[tokio::test]
    async fn whoever_refuses_fails_both_checks() {
        let (_socket, address) = nobody();
        for check in [Check::Tcp, http("200-399", None)] {
            assert_eq!(said(&plan(address, check, LONG)).await, Err("connect refused".to_owned()));
        }
    }

    /// The kernel answers no SYN to a listener whose backlog is full.
    #[tokio::test]
    async fn whoever_does_not_answer_the_connect_times_out() {
        let (socket, address) = nobody();
        let _listener = socket.listen(1).expect("listens");
        let mut connections = Vec::new();
        while let Ok(connection) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
            connections.push(connection.expect("accepted by the kernel"));
            assert!(connections.len() < 100, "the backlog never fills");
        }
        let expected = "timed out after 60 ms: no connection";
        assert_eq!(said(&plan(address, Check::Tcp, SHORT)).await, Err(expected.to_owned()));
    }

    #[tokio::test]
    async fn the_status_decides() {
        for (status, expect, expected) in [
            (200, "200-399", Ok("HTTP 200")),
            (204, "200-399", Ok("HTTP 204")),
            (302, "200-399", Ok("HTTP 302")),
            (404, "200-399", Err("HTTP 404")),
            (500, "200-399", Err("HTTP 500")),
            (503, "200-399", Err("HTTP 503")),
            (200, "204", Err("HTTP 200")),
            (404, "404", Ok("HTTP 404")),
        ] {
            let answer = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n");
            let address = server(&answer, Then::Close).await;
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(said(&plan(address, http(expect, None), LONG)).await, expected, "{status} {expect}");
        }
    }

    /// Each is the whole answer; then what becomes of the connection, and what the probe says.
    #[tokio::test]
    async fn every_other_answer_fails_and_says_why() {
        let long_field = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(4 * HEAD_BYTES_MAX));
        let many_fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: a\r\n".repeat(1000));
        let too_large = "the answer's head is larger than 16 KiB or has too many fields";
        for (answer, then, expected) in [
            ("", Then::Close, "connection closed before an answer"),
            ("HTTP/1.1 200 O", Then::Close, "connection closed before an answer"),
            ("SSH-2.0-OpenSSH_9.2\r\n", Then::Wait, "the answer is not HTTP/1"),
            ("\0\u{1}\u{2}\u{7f}garbage\r\n\r\n", Then::Wait, "the answer is not HTTP/1"),
            ("HTTP/1.1 2x0 OK\r\n\r\n", Then::Wait, "the answer is not HTTP/1"),
            ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Then::Wait, "the answer is not HTTP/1"),
            (&long_field, Then::Wait, too_large),
            (&many_fields, Then::Wait, too_large),
        ] {
            let address = server(answer, then).await;
            let start = answer.get(..20).unwrap_or(answer);
            assert_eq!(said(&plan(address, http("200-399", None), LONG)).await, Err(expected.to_owned()), "{start:?}");
        }
    }

    #[tokio::test]
    async fn whoever_is_too_slow_with_the_head_times_out() {
        for answer in ["", "HTTP/1.1 200 OK\r\nA: ", "HTTP/1.1 100 Continue\r\n\r\n"] {
            let address = server(answer, Then::Wait).await;
            let expected = "timed out after 60 ms: no answer";
            assert_eq!(
                said(&plan(address, http("200-399", None), SHORT)).await,
                Err(expected.to_owned()),
                "{answer:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_body_is_not_waited_for() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nthe first bytes";
        let address = server(answer, Then::Wait).await;
        assert_eq!(said(&plan(address, http("200-399", None), LONG)).await, Ok("HTTP 200".to_owned()));
    }

    #[tokio::test]
    async fn whoever_resets_the_connection_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            // Closing with unread bytes in the socket resets.
            stream.readable().await.expect("a request");
        });
        let expected = "connection failed: connection reset";
        assert_eq!(said(&plan(address, http("200-399", None), LONG)).await, Err(expected.to_owned()));
    }

    #[tokio::test]
    async fn the_request_names_path_and_host() {
        for host in [None, Some("web.example")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            let address = listener.local_addr().expect("bound");
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let head = read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("written");
                head
            });
            assert_eq!(said(&plan(address, http("200", host), LONG)).await, Ok("HTTP 200".to_owned()));
            let head = server.await.expect("a request").to_lowercase();
            assert!(head.starts_with("get /healthz?a=1 http/1.1\r\n"), "{head}");
            let host = host.map_or(address.to_string(), str::to_owned);
            assert!(head.contains(&format!("\r\nhost: {host}\r\n")), "{head}");
            assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        }
    }

    #[tokio::test]
    async fn the_port_of_the_check_takes_the_place_of_the_backends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        let check = HealthCheck { check: Check::Tcp, port: Some(port), timeout: LONG, rules: Rules::new(LONG, 1, 1) };
        let (_socket, backend) = nobody();
        let plan = Plan::new(backend, Arc::new(check));
        assert_eq!(said(&plan).await, Ok("connected".to_owned()));
    }

    #[test]
    fn own_trouble_does_not_count_and_the_networks_does() {
        for (code, counts) in [
            (libc::ECONNREFUSED, true),
            (libc::EHOSTUNREACH, true),
            (libc::ENETUNREACH, true),
            (libc::ECONNRESET, true),
            (libc::ETIMEDOUT, true),
            (libc::EMFILE, false),
            (libc::ENFILE, false),
            (libc::ENOBUFS, false),
            (libc::ENOMEM, false),
            (libc::EADDRNOTAVAIL, false),
            (libc::EPERM, false),
            (libc::EACCES, false),
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(Failure::of_connect(error).counts(), counts, "{code}");
        }
    }

    #[test]
    fn a_deadline_noticed_late_is_this_hosts_own_trouble() {
        let ms = Duration::from_millis;
        for (after, late, says, counts) in [
            (ms(1000), ms(0), "timed out after 1 s: no answer", true),
            (ms(250), ms(99), "timed out after 250 ms: no answer", true),
            (ms(1500), ms(100), "the agent was held up for 100 ms", false),
            (ms(1500), ms(3000), "the agent was held up for 3 s", false),
        ] {
            let failure = Failure::timed_out(after, late, "answer");
            assert_eq!((failure.to_string().as_str(), failure.counts()), (says, counts));
        }
    }
}
