//! What single values may be.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use grayxdp_common::weight::Weight;
use toml::de::DeValue;

use super::{
    PortRange,
    section::{list, nearest},
};
use crate::{
    cidr::{Network, NetworkError, networks_of_range},
    decide::schedule::Millionths,
    percent::{PercentError, weight_from_percent},
};

/// What is wrong with a value: what was expected, and what to do. What was found is quoted from the text.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) expected: String,
    pub(super) help: String,
}

impl Wrong {
    pub(super) fn new(expected: impl Into<String>, help: impl Into<String>) -> Self {
        Self { expected: expected.into(), help: help.into() }
    }
}

/// The longest period of a schedule.
const PERIOD_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// The shortest period of a schedule: the agent does not move weights more often.
const PERIOD_MIN: Duration = Duration::from_millis(10);
/// The longest name of an interface (`IFNAMSIZ` less the closing zero).
const INTERFACE_BYTES_MAX: usize = 15;
/// The least port that is no well-known one.
const PORT_LEAST: u16 = 1024;

pub(super) fn text(value: &DeValue<'_>) -> Result<String, Wrong> {
    match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Wrong::new("a text", "write some text in quotes")),
    }
}

pub(super) fn integer(value: &DeValue<'_>, range: RangeInclusive<u32>) -> Result<u32, Wrong> {
    let number = value.as_integer().and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
    number.filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        Wrong::new(
            format!("a whole number from {least} to {most}"),
            format!("write a number such as {least}, no quotes"),
        )
    })
}

pub(super) fn port(value: &DeValue<'_>) -> Result<u16, Wrong> {
    let port = integer(value, 1..=u32::from(u16::MAX)).ok().and_then(|port| u16::try_from(port).ok());
    port.ok_or_else(|| Wrong::new("a port from 1 to 65535", "write a number such as 80, no quotes"))
}

/// One of some words.
pub(super) fn choice<T: Copy>(value: &DeValue<'_>, choices: &[(&'static str, T)]) -> Result<T, Wrong> {
    let found = value.as_str().unwrap_or_default();
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == found) {
        return Ok(*choice);
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let (expected, example) = match words.as_slice() {
        [only] => (format!("`{only}`"), *only),
        _ => (format!("one of {}", list(&words)), words.first().copied().unwrap_or_default()),
    };
    let help = match nearest(found, &words) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("write \"{example}\", for one"),
    };
    Err(Wrong::new(expected, help))
}

/// A weight in percent.
pub(super) fn percent(value: &DeValue<'_>) -> Result<Weight, Wrong> {
    let expected = "a percent from 0 to 100 with at most two decimals";
    let number = number(value).ok_or_else(|| Wrong::new(expected, "write a number such as 12.5, no quotes"))?;
    weight_from_percent(number).map_err(|error| {
        let help = match error {
            PercentError::TooFine(_) => format!("round it: {number:.2}, for one"),
            PercentError::OutOfRange(_) | PercentError::NotANumber => "write a number such as 12.5".to_owned(),
        };
        Wrong::new(expected, help)
    })
}

/// What an exponential schedule multiplies by.
pub(super) fn factor(value: &DeValue<'_>) -> Result<Millionths, Wrong> {
    millionths(value, 1.01..=1000.0)
        .ok_or_else(|| Wrong::new("a factor from 1.01 to 1000", "write 2 to double the weight each period"))
}

/// The part of the rest that an exponential schedule closes.
pub(super) fn rate(value: &DeValue<'_>) -> Result<Millionths, Wrong> {
    millionths(value, 0.01..=1.0).ok_or_else(|| {
        Wrong::new("a fraction from 0.01 to 1", "write 0.2 to close a fifth of the gap to `to` each period")
    })
}

fn millionths(value: &DeValue<'_>, range: RangeInclusive<f64>) -> Option<Millionths> {
    let number = number(value).filter(|number| range.contains(number))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and at most 10⁹ by the range"
    )]
    let millionths = (number * f64::from(Millionths::ONE.0)).round() as u32;
    Some(Millionths(millionths))
}

/// A number within a range, with or without a point.
pub(super) fn real(value: &DeValue<'_>, range: RangeInclusive<f64>, example: &str) -> Result<f64, Wrong> {
    number(value).filter(|number| range.contains(number)).ok_or_else(|| {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        Wrong::new(expected, format!("write a number such as {example}, no quotes"))
    })
}

/// How many times as fast something may go.
pub(super) fn speed(value: &DeValue<'_>) -> Result<Millionths, Wrong> {
    millionths(value, 1.0..=100.0).ok_or_else(|| Wrong::new("a factor from 1 to 100", "write 2 to go twice as fast"))
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| Wrong::new("true or false", "write `true` or `false`, no quotes"))
}

pub(super) fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
        DeValue::Float(float) => float.as_str().parse().ok(),
        _ => None,
    }
}

/// The length of a schedule's period, or of all of a smooth one.
pub(super) fn period(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    let period = duration(value)?;
    if (PERIOD_MIN..=PERIOD_MAX).contains(&period) {
        return Ok(period);
    }
    Err(Wrong::new("a duration from 10ms to 365days", "write a duration such as \"30s\" or \"5m\""))
}

/// A length of time that may be none.
pub(super) fn length(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    let length = duration(value)?;
    if length <= PERIOD_MAX {
        return Ok(length);
    }
    Err(Wrong::new("a duration of at most 365days", "write a duration such as \"30s\" or \"5m\""))
}

/// How long a flow may be idle.
pub(super) fn timeout(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    /// What the kernel's clock of flows can tell apart.
    const MAX: Duration = Duration::from_secs(8 * 3600);
    let idle = duration(value)?;
    if idle.subsec_nanos() == 0 && (Duration::from_secs(1)..=MAX).contains(&idle) {
        return Ok(idle);
    }
    Err(Wrong::new("a duration in whole seconds from 1s to 8h", "write a duration such as \"60s\""))
}

pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    let duration = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
    duration.ok_or_else(|| {
        let help = match value {
            DeValue::Integer(number) => format!("add a unit, in quotes: \"{number}s\""),
            _ => "write a number and a unit in quotes: \"500ms\", \"30s\", \"5m\", \"1h 30m\"".to_owned(),
        };
        Wrong::new("a duration", help)
    })
}

/// An address that packets can be routed to.
pub(super) fn address(value: &DeValue<'_>) -> Result<IpAddr, Wrong> {
    let address = value.as_str().and_then(|text| text.parse().ok());
    let address = address
        .ok_or_else(|| Wrong::new("an IP address", "write an address such as \"203.0.113.10\" or \"2001:db8::10\""))?;
    routable(address)?;
    Ok(address)
}

/// Address and port of a backend.
pub(super) fn socket_address(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    let address = any_socket_address(value)?;
    routable(address.ip())?;
    if address.port() == 0 {
        return Err(Wrong::new("a port from 1 to 65535", "write the port that the backend listens on"));
    }
    if matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0) {
        return Err(Wrong::new("an address without a scope", "give the backend a global or unique local address"));
    }
    Ok(address)
}

/// Address and port of a backend whose mode rewrites no ports: the port is the service's, and may be left out.
pub(super) fn same_port_address(value: &DeValue<'_>, service_port: u16, mode: &str) -> Result<SocketAddr, Wrong> {
    let text = value.as_str().unwrap_or_default();
    let alone = |text: &str| text.parse::<IpAddr>().ok();
    if let Some(address) = alone(text).or_else(|| alone(text.strip_prefix('[')?.strip_suffix(']')?)) {
        routable(address)?;
        return Ok(SocketAddr::new(address, service_port));
    }
    let expected = format!("an IP address, or one with port {service_port}");
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err(Wrong::new(expected, "write the address alone, such as \"10.0.1.10\" or \"2001:db8::10\""));
    };
    if address.port() != service_port {
        return Err(Wrong::new(
            expected,
            format!("mode `{mode}` does not rewrite ports: backends listen on the service's; write the address alone"),
        ));
    }
    socket_address(value)
}

/// A network, or a single address.
pub(super) fn network(value: &DeValue<'_>) -> Result<Network, Wrong> {
    const EXPECTED: &str = "a network or an address";
    let text =
        value.as_str().ok_or_else(|| Wrong::new(EXPECTED, "write one in quotes, such as \"198.51.100.0/24\""))?;
    text.parse().map_err(|error: NetworkError| Wrong::new(EXPECTED, error.to_string()))
}

/// A network, an address, or a range of addresses (`192.0.2.1-192.0.2.9`), which becomes the networks that make it up.
pub(super) fn networks(value: &DeValue<'_>) -> Result<Vec<Network>, Wrong> {
    const EXPECTED: &str = "a network, an address, or a range of addresses";
    let Some((first, last)) = value.as_str().and_then(|text| text.split_once('-')) else {
        let found = value.as_str().unwrap_or_default().parse().map(|network| vec![network]);
        return found.map_err(|error| match error {
            NetworkError::Unreadable => {
                Wrong::new(EXPECTED, "write one such as \"10.0.0.0/8\", \"192.0.2.7\" or \"192.0.2.1-192.0.2.9\"")
            }
            error => Wrong::new(EXPECTED, error.to_string()),
        });
    };
    let parse = |text: &str| text.trim().parse::<IpAddr>().ok();
    let (Some(first), Some(last)) = (parse(first), parse(last)) else {
        return Err(Wrong::new(EXPECTED, "write a range as \"192.0.2.1-192.0.2.9\": first and last address"));
    };
    if let Some(mapped) = [first, last].into_iter().find_map(|address| Network::new(address, 0).err().filter(is_mapped))
    {
        return Err(Wrong::new(EXPECTED, mapped.to_string()));
    }
    let networks = networks_of_range(first, last);
    if networks.is_empty() {
        return Err(Wrong::new(EXPECTED, "write the lower address first, and both of one family"));
    }
    Ok(networks)
}

const fn is_mapped(error: &NetworkError) -> bool {
    matches!(error, NetworkError::Mapped)
}

/// The leading bits of the outer source address of IP in IP, of the family of the default.
pub(super) fn outer_source(value: &DeValue<'_>, key: &str, default: &str) -> Result<Network, Wrong> {
    let is_ipv4 = default.parse().is_ok_and(Network::is_ipv4);
    let (family, least, most) = if is_ipv4 { ("IPv4", 8, 32) } else { ("IPv6", 16, 128) };
    let expected = format!("an {family} network with a prefix of {least} to {most} bits");
    let network = network(value).map_err(|wrong| Wrong::new(expected.as_str(), wrong.help))?;
    if network.is_ipv4() != is_ipv4 || !(least..=most).contains(&network.prefix_len()) {
        return Err(Wrong::new(expected, format!("write `{key} = \"{default}\"`, for one")));
    }
    routable(network.address()).map_err(|wrong| Wrong::new(expected, wrong.help))?;
    Ok(network)
}

/// A range of ports.
pub(super) fn port_range(value: &DeValue<'_>) -> Result<PortRange, Wrong> {
    let range = value.as_str().and_then(|text| {
        let (first, last) = text.split_once('-')?;
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    });
    match range {
        Some((first, last)) if first >= PORT_LEAST && last >= first => Ok(PortRange { first, last }),
        _ => Err(Wrong::new(
            format!("a range of ports from {PORT_LEAST} to 65535"),
            "write the first and the last port in quotes: \"20000-60999\"",
        )),
    }
}

/// One of some numbers.
pub(super) fn one_of(value: &DeValue<'_>, choices: &[u32]) -> Result<u32, Wrong> {
    let found = integer(value, 0..=u32::MAX).ok().filter(|number| choices.contains(number));
    found.ok_or_else(|| {
        let words: Vec<String> = choices.iter().map(ToString::to_string).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let example = words.first().copied().unwrap_or_default();
        Wrong::new(format!("one of {}", list(&words)), format!("write {example}, for one; no quotes"))
    })
}

/// Address and port to listen on.
pub(super) fn any_socket_address(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        Wrong::new("an IP address and a port", "write them as \"10.0.1.10:8080\" or \"[2001:db8::10]:8080\"")
    })
}

fn routable(address: IpAddr) -> Result<(), Wrong> {
    let unfit = match address {
        IpAddr::V4(v4) => (v4.is_broadcast() || v4.is_link_local()).then_some("broadcast or link-local"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("IPv4-mapped"),
        IpAddr::V6(v6) => v6.is_unicast_link_local().then_some("link-local"),
    };
    let unfit = unfit
        .or(address.is_unspecified().then_some("unspecified"))
        .or(address.is_multicast().then_some("multicast"))
        .or(address.is_loopback().then_some("loopback"));
    match unfit {
        None => Ok(()),
        Some(unfit) => Err(Wrong::new(
            "a unicast address that packets can be routed to",
            format!("this one is {unfit}; write the address of a machine's interface, or one that routes lead to"),
        )),
    }
}

/// The path of a file or directory.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let path = value.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
    path.ok_or_else(|| Wrong::new("an absolute path", "write the path from `/` on, in quotes"))
}

/// The path of a Unix socket.
pub(super) fn socket_path(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    /// `sun_path` less the closing zero.
    const BYTES_MAX: usize = 107;
    let path = path(value)?;
    if path.as_os_str().len() > BYTES_MAX {
        return Err(Wrong::new(format!("a path of at most {BYTES_MAX} bytes"), "choose a shorter path for the socket"));
    }
    Ok(path)
}

/// The name of a network interface.
pub(super) fn interface(value: &DeValue<'_>) -> Result<String, Wrong> {
    let fits = |name: &&str| {
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        (1..=INTERFACE_BYTES_MAX).contains(&name.len()) && !name.contains(bad) && *name != "." && *name != ".."
    };
    let name = value.as_str().filter(fits);
    name.map(str::to_owned).ok_or_else(|| {
        Wrong::new("the name of a network interface", "write a name that `ip link` shows, such as \"eth0\"")
    })
}

/// The name of a service or of a shard.
pub(super) fn name(value: &DeValue<'_>) -> Result<String, Wrong> {
    value.as_str().and_then(is_name).map(str::to_owned).ok_or_else(|| {
        Wrong::new(
            "a name of 1 to 63 lower-case letters, digits and hyphens",
            "write a short name such as \"web\" or \"dns-2\"",
        )
    })
}

/// The text, if services and shards may be called so.
pub(super) fn is_name(text: &str) -> Option<&str> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    ((1..=63).contains(&text.len()) && text.bytes().all(good)).then_some(text)
}
