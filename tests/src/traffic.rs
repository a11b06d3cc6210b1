//! HTTP clients that choose their source address. Must run inside the client's namespace.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::{server::VERSION_HEADER, topology::Version};

/// How long one small request may take before it counts as failed.
pub const REQUEST_MAX: Duration = Duration::from_secs(5);
/// How long a transfer of a file may take.
pub const TRANSFER_MAX: Duration = Duration::from_secs(60);

/// An answer to a request on a connection of its own.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Who answered.
    pub version: Version,
    /// When the connection stood.
    pub connected: Instant,
}

/// An open HTTP connection.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
    host: String,
}

impl Connection {
    /// Connects from `source` (any port).
    pub async fn open(target: SocketAddr, source: IpAddr) -> Result<Self> {
        let stream = timeout(REQUEST_MAX, connect(target, source)).await.context("connecting took too long")??;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(driver);
        Ok(Self { sender, driver, host: target.to_string() })
    }

    /// Asks which version is at the other end.
    pub async fn version(&mut self) -> Result<Version> {
        let ask = async {
            let response = self.send(Method::GET, "/", Bytes::new()).await?;
            ensure!(response.status() == StatusCode::OK, "status {}", response.status());
            let version = version_of(&response)?;
            let body = response.into_body().collect().await.context("the body broke off")?.to_bytes();
            ensure!(body.trim_ascii() == version.name().as_bytes(), "header says {version}, body says {body:?}");
            Ok(version)
        };
        timeout(REQUEST_MAX, ask).await.context("no answer in time")?
    }

    /// Asks, and takes any answer.
    pub async fn status(&mut self) -> Result<StatusCode> {
        let ask = async {
            let response = self.send(Method::GET, "/", Bytes::new()).await?;
            let status = response.status();
            response.into_body().collect().await.context("the body broke off")?;
            Ok(status)
        };
        timeout(REQUEST_MAX, ask).await.context("no answer in time")?
    }

    /// The address in the body of `/backend` or `/client`.
    pub async fn address(&mut self, path: &str) -> Result<IpAddr> {
        let ask = async {
            let response = self.send(Method::GET, path, Bytes::new()).await?;
            ensure!(response.status() == StatusCode::OK, "GET {path}: status {}", response.status());
            let body = response.into_body().collect().await.context("the body broke off")?.to_bytes();
            let text = String::from_utf8_lossy(&body);
            text.trim().parse().with_context(|| format!("{path} says {text:?}"))
        };
        timeout(REQUEST_MAX, ask).await.context("no answer in time")?
    }

    /// Downloads into a file; returns who sent it.
    pub async fn download(&mut self, path: &str, into: &Path) -> Result<Version> {
        let transfer = async {
            let mut response = self.send(Method::GET, path, Bytes::new()).await?;
            ensure!(response.status() == StatusCode::OK, "GET {path}: status {}", response.status());
            let version = version_of(&response)?;
            let mut file = tokio::fs::File::create(into).await?;
            while let Some(frame) = response.frame().await {
                if let Ok(data) = frame.context("the download broke off")?.into_data() {
                    file.write_all(&data).await?;
                }
            }
            file.flush().await?;
            Ok(version)
        };
        timeout(TRANSFER_MAX, transfer).await.context("the download took too long")?
    }

    /// Uploads; returns who took it.
    pub async fn upload(&mut self, path: &str, content: Bytes) -> Result<Version> {
        let transfer = async {
            let response = self.send(Method::PUT, path, content).await.context("the upload broke off")?;
            ensure!(response.status().is_success(), "PUT {path}: status {}", response.status());
            version_of(&response)
        };
        timeout(TRANSFER_MAX, transfer).await.context("the upload took too long")?
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let request = Request::builder().method(method).uri(path).header("host", &self.host).body(Full::new(body))?;
        self.sender.ready().await.context("the connection is closed")?;
        Ok(self.sender.send_request(request).await?)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One request on a connection of its own.
pub async fn ask_once(target: SocketAddr, source: IpAddr) -> Result<Answer> {
    let mut connection = Connection::open(target, source).await?;
    let connected = Instant::now();
    let version = connection.version().await?;
    Ok(Answer { version, connected })
}

/// Who answers each of `sources`, each on a connection of its own, 64 at a time.
pub async fn ask_all(target: SocketAddr, sources: &[IpAddr]) -> Result<Vec<Version>> {
    let mut versions = Vec::with_capacity(sources.len());
    for group in sources.chunks(64) {
        let asked: Vec<_> = group.iter().map(|source| tokio::spawn(ask_once(target, *source))).collect();
        for (source, answer) in group.iter().zip(asked) {
            let answer = answer.await?.with_context(|| format!("{source} → {target}"))?;
            versions.push(answer.version);
        }
    }
    Ok(versions)
}

/// What `path` tells each of `sources`, each on a connection of its own, 64 at a time.
pub async fn addresses(target: SocketAddr, sources: &[IpAddr], path: &'static str) -> Result<Vec<IpAddr>> {
    let ask = move |source: IpAddr| async move { Connection::open(target, source).await?.address(path).await };
    let mut addresses = Vec::with_capacity(sources.len());
    for group in sources.chunks(64) {
        let asked: Vec<_> = group.iter().map(|source| tokio::spawn(ask(*source))).collect();
        for (source, answer) in group.iter().zip(asked) {
            addresses.push(answer.await?.with_context(|| format!("{source} → {target}{path}"))?);
        }
    }
    Ok(addresses)
}

async fn connect(target: SocketAddr, source: IpAddr) -> Result<TcpStream> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(source, 0)).with_context(|| format!("cannot bind {source}"))?;
    let stream = socket.connect(target).await.with_context(|| format!("cannot connect {source} → {target}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn version_of(response: &Response<Incoming>) -> Result<Version> {
    let Some(name) = response.headers().get(VERSION_HEADER) else {
        bail!("no header {VERSION_HEADER}: some other server answered (status {})", response.status())
    };
    Version::from_name(name.to_str()?).with_context(|| format!("{VERSION_HEADER}: {name:?}"))
}
