//! `trace`: packets as they come, as lines or as a capture file.

mod capture;

use std::{
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use self::capture::Capture;
use super::{
    args::Output,
    client::{Client, ClientError},
    error::CliError,
    print,
};
use crate::agent::shapes::{TraceLine, TraceQuery, TracedPacket};

/// Arguments of `trace`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct TraceArgs {
    /// Only packets of this service; of all, and of none, if left out.
    pub service: Option<String>,
    /// Take one packet in so many; if left out, as many as make some hundred a second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub one_in: Option<u32>,
    /// Only packets that are dropped; with `--one-in 1` none of them is missed.
    #[arg(long)]
    pub drops: bool,
    /// End after so many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time, such as 10s or 5m.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time: Option<Duration>,
    /// Write a capture file for tshark, Wireshark or tcpdump, in place of lines; `-` is the standard output.
    #[arg(long, value_name = "FILE.pcapng")]
    pub write: Option<PathBuf>,
}

/// Where packets go.
enum Sink {
    Text,
    Json,
    Capture(Capture),
}

/// What has come up to now.
#[derive(Default)]
struct Trace {
    packets: u64,
    left_out: u64,
    one_in: u32,
    failed: Option<CliError>,
}

pub(super) fn execute(client: &Client, output: Output, arguments: TraceArgs) -> Result<(), CliError> {
    let TraceArgs { service, one_in, drops, count, time, write } = arguments;
    let mut sink = match (write, output) {
        (Some(path), _) => Sink::Capture(Capture::create(path)?),
        (None, Output::Text) => Sink::Text,
        (None, Output::Json) => Sink::Json,
    };
    let query = serde_urlencoded::to_string(TraceQuery { service, one_in, drops }).unwrap_or_default();
    let mut trace = Trace::default();
    let taken = client.stream(&format!("/v1/trace?{query}"), time, |line| {
        let done = trace.take(&mut sink, line, count.unwrap_or(u64::MAX));
        done.unwrap_or_else(|error| {
            trace.failed = Some(error);
            ControlFlow::Break(())
        })
    });
    if let Some(error) = trace.failed.take() {
        return Err(error);
    }
    taken?;
    if !matches!(sink, Sink::Json) {
        print::complaint(&trace.summary());
    }
    Ok(())
}

impl Trace {
    fn take(&mut self, sink: &mut Sink, json: &str, count: u64) -> Result<ControlFlow<()>, CliError> {
        let line: TraceLine = serde_json::from_str(json).map_err(|error| {
            CliError::Client(ClientError::NotUnderstood { socket: PathBuf::from("its socket"), why: error.to_string() })
        })?;
        let is_packet = matches!(line, TraceLine::Packet(_));
        match &line {
            TraceLine::Packet(_) => self.packets += 1,
            TraceLine::LeftOut { packets } => self.left_out += packets,
            TraceLine::Sampling { one_in } => self.one_in = *one_in,
        }
        let goes_on = match (sink, &line) {
            (Sink::Json, _) => print::part(&format!("{json}\n"))?,
            (Sink::Text, line) => print::part(&text(line))?,
            (Sink::Capture(capture), TraceLine::Packet(packet)) => capture.write(packet, self.one_in)?,
            (Sink::Capture(_), _) => true,
        };
        let is_over = !goes_on || (is_packet && self.packets >= count);
        Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn summary(&self) -> String {
        let mut text = format!("{} packets", self.packets);
        if self.one_in > 1 {
            text.push_str(&format!(", of which one in {} was taken", self.one_in));
        }
        if self.left_out > 0 {
            text.push_str(&format!("; at least {} more were left out", self.left_out));
        }
        text + "\n"
    }
}

fn text(line: &TraceLine) -> String {
    match line {
        TraceLine::Sampling { one_in: 1 } => "# every packet\n".to_owned(),
        TraceLine::Sampling { one_in } => format!("# one packet in {one_in}\n"),
        TraceLine::LeftOut { packets } => format!("# at least {packets} packets left out\n"),
        TraceLine::Packet(packet) => {
            let mut text = format!("{}  {}  {}", clock(&packet.time), packet.interface, way(packet));
            for word in [packet.service.as_deref().unwrap_or_default(), &packet.protocol, &packet.tcp_flags] {
                if !word.is_empty() {
                    text.push(' ');
                    text.push_str(word);
                }
            }
            text + &format!("  {} B  {} {}\n", packet.length, packet.action, packet.reason)
        }
    }
}

/// Hours to milliseconds of an RFC 3339 time.
fn clock(time: &str) -> &str {
    time.get(11..23).unwrap_or(time)
}

/// Client, VIP and backend, in the packet's direction.
fn way(packet: &TracedPacket) -> String {
    let source = end(packet.source, packet.source_port);
    let destination = end(packet.destination, packet.destination_port);
    match (packet.vip, packet.backend) {
        (Some(vip), Some(backend)) if is(backend, packet.source, packet.source_port) => {
            format!("{source} → {vip} → {destination} ")
        }
        (_, Some(backend)) if !is(backend, packet.source, packet.source_port) => {
            format!("{source} → {destination} → {backend} ")
        }
        _ => format!("{source} → {destination} "),
    }
}

fn is(endpoint: SocketAddr, address: Option<IpAddr>, port: Option<u16>) -> bool {
    address == Some(endpoint.ip()) && port == Some(endpoint.port())
}

fn end(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => "?".to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A client's SYN that was sent to a backend.
    pub(super) fn packet() -> TracedPacket {
        TracedPacket {
            time: "2026-11-24T12:31:04.123456789Z".to_owned(),
            interface: "eth0".to_owned(),
            service: Some("web".to_owned()),
            vip: Some("203.0.113.10:80".parse().expect("an address")),
            backend: Some("10.0.1.10:8080".parse().expect("an address")),
            source: Some([198, 51, 100, 7].into()),
            source_port: Some(40_000),
            destination: Some([203, 0, 113, 10].into()),
            destination_port: Some(80),
            protocol: "tcp".to_owned(),
            tcp_flags: "SYN,ACK".to_owned(),
            action: "forward".to_owned(),
            reason: "other_interface".to_owned(),
            length: 60,
            head: "0200000000a00200000000010800".to_owned(),
        }
    }

    #[test]
    fn a_packet_is_a_line_in_its_own_direction() {
        let reply = TracedPacket {
            source: Some([10, 0, 1, 10].into()),
            source_port: Some(8080),
            destination: Some([198, 51, 100, 7].into()),
            destination_port: Some(40_000),
            ..packet()
        };
        let dropped =
            TracedPacket { backend: None, action: "drop".to_owned(), reason: "no_backend".to_owned(), ..packet() };
        let strange = TracedPacket {
            service: None,
            vip: None,
            backend: None,
            source: None,
            destination: None,
            protocol: "arp".to_owned(),
            tcp_flags: String::new(),
            action: "pass".to_owned(),
            reason: "not_ip".to_owned(),
            ..packet()
        };
        for (packet, expected) in [
            (
                packet(),
                "12:31:04.123  eth0  198.51.100.7:40000 → 203.0.113.10:80 → 10.0.1.10:8080  web tcp SYN,ACK  60 B  forward other_interface\n",
            ),
            (
                reply,
                "12:31:04.123  eth0  10.0.1.10:8080 → 203.0.113.10:80 → 198.51.100.7:40000  web tcp SYN,ACK  60 B  forward other_interface\n",
            ),
            (
                dropped,
                "12:31:04.123  eth0  198.51.100.7:40000 → 203.0.113.10:80  web tcp SYN,ACK  60 B  drop no_backend\n",
            ),
            (strange, "12:31:04.123  eth0  ? → ?  arp  60 B  pass not_ip\n"),
        ] {
            assert_eq!(text(&TraceLine::Packet(Box::new(packet))), expected);
        }
        assert_eq!(text(&TraceLine::Sampling { one_in: 8 }), "# one packet in 8\n");
        assert_eq!(text(&TraceLine::LeftOut { packets: 3 }), "# at least 3 packets left out\n");
    }

    #[test]
    fn a_trace_ends_after_its_packets_and_says_what_was_left_out() {
        let mut trace = Trace { failed: None, ..Trace::default() };
        let directory = tempfile::tempdir().expect("a directory");
        let mut sink = Sink::Capture(Capture::create(directory.path().join("x.pcapng")).expect("created"));
        let lines = [
            TraceLine::Sampling { one_in: 4 },
            TraceLine::Packet(Box::new(packet())),
            TraceLine::LeftOut { packets: 9 },
            TraceLine::Packet(Box::new(packet())),
        ];
        let ends = lines.map(|line| {
            let json = serde_json::to_string(&line).expect("JSON");
            trace.take(&mut sink, &json, 2).expect("taken").is_break()
        });
        assert_eq!(ends, [false, false, false, true]);
        assert_eq!(trace.summary(), "2 packets, of which one in 4 was taken; at least 9 more were left out\n");
        assert!(trace.take(&mut sink, "{}", 2).is_err());
    }
}
