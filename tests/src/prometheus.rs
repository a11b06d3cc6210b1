//! A real Prometheus that scrapes one target, and its query API.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    netns::Netns,
    process::{Process, Signal},
    sweep,
};

const PORT: u16 = 9090;

/// `prometheus` in the namespace of the agent.
#[derive(Debug)]
pub struct Prometheus<'a> {
    host: &'a Netns,
    process: Process,
    directory: PathBuf,
}

impl<'a> Prometheus<'a> {
    /// Starts one that scrapes `target` every second; waits until it is ready.
    pub fn start(host: &'a Netns, target: SocketAddr) -> Result<Self> {
        let directory = sweep::temporary_directory(&format!("{}-prometheus", sweep::unique_name()))?;
        let config = directory.join("prometheus.yml");
        fs::write(
            &config,
            format!(
                "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
                 scrape_configs:\n- job_name: grayxdp\n  static_configs: [{{ targets: [\"{target}\"] }}]\n"
            ),
        )?;
        let mut command = host.command("prometheus")?;
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
        let process = Process::spawn("prometheus", command, &directory.join("output.log"))?;
        let mut prometheus = Self { host, process, directory };
        prometheus.process.wait_until("prometheus is ready", Duration::from_secs(60), || {
            host.block_on(http_get(address(), "/-/ready"))
        })?;
        Ok(prometheus)
    }

    /// The values of an instant query, one for each series; the query has no character that a URL must escape.
    pub fn query(&self, query: &str) -> Result<Vec<f64>> {
        let body = self.host.block_on(http_get(address(), &format!("/api/v1/query?query={query}")))?;
        let answer: Value = serde_json::from_slice(&body)?;
        let series = answer["data"]["result"].as_array().with_context(|| format!("no result in {answer}"))?;
        series
            .iter()
            .map(|one| {
                let value = one["value"][1].as_str().with_context(|| format!("no value in {one}"))?;
                Ok(value.parse()?)
            })
            .collect()
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        self.process.signal(Signal::KILL).ok();
        self.process.wait_within(Duration::from_secs(5)).ok();
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// Where it answers, in its namespace.
pub fn address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
}

/// A page, which must be there.
pub async fn http_get(address: SocketAddr, path: &str) -> Result<Bytes> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(driver);
        let request = Request::builder().uri(path).header("host", address.to_string()).body(Full::<Bytes>::default())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        driver.abort();
        ensure!(status == StatusCode::OK, "http://{address}{path}: status {status}");
        Ok(body)
    };
    timeout(Duration::from_secs(10), exchange).await.context("no answer in time")?
}
