//! A real HTTP server (nginx) that tells its version in every answer, and stores and sends files.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    netns::Netns,
    process::{Process, Signal},
    sweep,
    topology::Version,
};

/// The port that every HTTP backend listens on.
pub const HTTP_PORT: u16 = 8080;
/// The header that tells which version answered.
pub const VERSION_HEADER: &str = "x-version";

/// The port that it listens on too, for modes that rewrite none.
pub const SERVICE_PORT: u16 = 80;

/// nginx in a namespace. Paths: `/` one line with the version; `/backend` one with the address that was connected to, and
/// `/client` with the client's; `/files/NAME` GET and PUT; `/slow/NAME` GET at 2 MiB/s; `/status/NNN` that status, for a few,
/// each of which is logged.
#[derive(Debug)]
pub struct HttpServer {
    process: Process,
    directory: PathBuf,
}

impl HttpServer {
    /// Starts one and waits until it accepts connections.
    pub fn start(host: &Netns, version: Version) -> Result<Self> {
        let directory = sweep::temporary_directory(&format!("{}-nginx-{version}", sweep::unique_name()))?;
        for sub in ["root", "temporary"] {
            fs::create_dir(directory.join(sub))?;
        }
        let config = directory.join("nginx.conf");
        fs::write(&config, config_text(&directory, version))?;
        let mut command = host.command("nginx")?;
        command.arg("-c").arg(&config).arg("-p").arg(&directory).arg("-e").arg(directory.join("error.log"));
        let process = Process::spawn(&format!("nginx {version}"), command, &directory.join("output.log"))?;
        let mut server = Self { process, directory };
        server.process.wait_until("nginx accepts connections", Duration::from_secs(10), || {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT));
            host.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))??;
            Ok(())
        })?;
        Ok(server)
    }

    /// Where a file of `/files/` lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join("root").join(name)
    }

    /// A line with the status of each request to `/status/`.
    pub fn access_log(&self) -> PathBuf {
        self.directory.join("access.log")
    }

    /// Ends it; its files stay until it is dropped.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.wait_within(Duration::from_secs(5)).map(drop)
    }

    /// An error unless it runs.
    pub fn check_running(&mut self) -> Result<()> {
        let directory = self.directory.display();
        self.process.check_running().with_context(|| format!("the HTTP server of {directory}"))
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // First the process: it still writes there.
        self.process.signal(Signal::TERM).ok();
        self.process.wait_within(Duration::from_secs(5)).ok();
        fs::remove_dir_all(&self.directory).ok();
    }
}

fn config_text(directory: &Path, version: Version) -> String {
    let directory = directory.display();
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log warn;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    log_format status "$status";
    server_tokens off;
    default_type text/plain;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    send_timeout 600s;
    client_max_body_size 1g;
    client_body_temp_path {directory}/temporary/body;
    proxy_temp_path {directory}/temporary/proxy;
    fastcgi_temp_path {directory}/temporary/fastcgi;
    uwsgi_temp_path {directory}/temporary/uwsgi;
    scgi_temp_path {directory}/temporary/scgi;
    server {{
        listen {HTTP_PORT} backlog=4096;
        listen [::]:{HTTP_PORT} ipv6only=on backlog=4096;
        listen {SERVICE_PORT} backlog=4096;
        listen [::]:{SERVICE_PORT} ipv6only=on backlog=4096;
        add_header {VERSION_HEADER} {version} always;
        location = / {{ return 200 "{version}\n"; }}
        location = /backend {{ return 200 "$server_addr\n"; }}
        location = /client {{ return 200 "$remote_addr\n"; }}
        location /status/ {{
            access_log {directory}/access.log status;
            location = /status/200 {{ return 200 "well\n"; }}
            location = /status/304 {{ return 304; }}
            location = /status/404 {{ return 404; }}
            location = /status/500 {{ return 500; }}
            location = /status/503 {{ return 503; }}
        }}
        location /files/ {{ alias {directory}/root/; dav_methods PUT; }}
        location /slow/ {{ alias {directory}/root/; limit_rate 2m; }}
    }}
}}
"#
    )
}
