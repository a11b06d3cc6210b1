//! The least config with a service, for tests that are about something else.

use super::{Config, ServiceConfig};

/// One service, `web`. `rest` begins in line 11, and is the service's.
pub(crate) fn text(protocol: &str, rest: &str) -> String {
    format!(
        r#"[agent]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "{protocol}"
hash_seed = "x"
v1.backends = [{{ address = "10.0.1.10:80" }}]
v2.backends = [{{ address = "10.0.2.10:80" }}]
{rest}
"#
    )
}

/// That service, by TCP.
pub(crate) fn service(rest: &str) -> ServiceConfig {
    let mut config = Config::parse("lb.toml", &text("tcp", rest)).unwrap_or_else(|errors| panic!("{errors}"));
    config.services.remove(0)
}
