//! The first bytes of a packet, for people. Pure. They may end anywhere, and may be anything.

use std::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TcpSlice, TransportSlice};

/// What could be read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Head {
    pub(super) source: Option<IpAddr>,
    pub(super) source_port: Option<u16>,
    pub(super) destination: Option<IpAddr>,
    pub(super) destination_port: Option<u16>,
    pub(super) protocol: String,
    pub(super) tcp_flags: String,
}

/// Reads as far as can be read.
pub(super) fn read(bytes: &[u8]) -> Head {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else {
        return Head { protocol: "ethernet".to_owned(), ..Head::default() };
    };
    let mut head = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
            network(source, destination, ip.payload().ip_number.0)
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
            network(source, destination, ip.payload().ip_number.0)
        }
        Some(LaxNetSlice::Arp(_)) => Head { protocol: "arp".to_owned(), ..Head::default() },
        None => Head { protocol: ethertype(bytes), ..Head::default() },
    };
    let ports = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) | None => None,
    };
    head.source_port = ports.map(|(source, _)| source);
    head.destination_port = ports.map(|(_, destination)| destination);
    if let Some(TransportSlice::Tcp(tcp)) = &packet.transport {
        head.tcp_flags = flags(tcp);
    }
    head
}

fn network(source: IpAddr, destination: IpAddr, protocol: u8) -> Head {
    let protocol = match protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => format!("ip {other}"),
    };
    Head { source: Some(source), destination: Some(destination), protocol, ..Head::default() }
}

fn ethertype(bytes: &[u8]) -> String {
    match bytes.get(12..14) {
        Some(&[high, low]) => format!("ethertype 0x{high:02x}{low:02x}"),
        _ => "ethernet".to_owned(),
    }
}

fn flags(tcp: &TcpSlice<'_>) -> String {
    let flags = [
        ("SYN", tcp.syn()),
        ("FIN", tcp.fin()),
        ("RST", tcp.rst()),
        ("PSH", tcp.psh()),
        ("ACK", tcp.ack()),
        ("URG", tcp.urg()),
    ];
    flags.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
pub(super) mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    /// A client's SYN.
    pub(in crate::agent) fn syn() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([198, 51, 100, 7], [203, 0, 113, 10], 64)
            .tcp(40_000, 80, 1, 1000)
            .syn();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"").expect("a vector");
        bytes
    }

    #[test]
    fn whole_and_cut_packets_are_read_as_far_as_they_go() {
        let whole = read(&syn());
        let expected = Head {
            source: Some([198, 51, 100, 7].into()),
            source_port: Some(40_000),
            destination: Some([203, 0, 113, 10].into()),
            destination_port: Some(80),
            protocol: "tcp".to_owned(),
            tcp_flags: "SYN".to_owned(),
        };
        assert_eq!(whole, expected);
        let no_transport =
            Head { source_port: None, destination_port: None, tcp_flags: String::new(), ..expected.clone() };
        assert_eq!(read(&syn()[..40]), no_transport);
        assert_eq!(read(&syn()[..20]).protocol, "ethertype 0x0800");
        assert_eq!(read(&syn()[..13]).protocol, "ethernet");

        let mut long = Vec::new();
        let client = "2001:db8::7".parse::<std::net::Ipv6Addr>().expect("an address").octets();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .single_vlan(etherparse::VlanId::try_new(7).expect("small"))
            .ipv6(client, client, 64)
            .udp(5353, 53);
        builder.write(&mut long, &[7; 1000]).expect("a vector");
        let head = read(&long[..128]);
        assert_eq!((head.protocol.as_str(), head.source_port, head.destination_port), ("udp", Some(5353), Some(53)));
        assert_eq!(head.source, Some(client.into()));
        let mut other = vec![0; 14];
        other[12..].copy_from_slice(&[0x88, 0xcc]);
        assert_eq!(read(&other).protocol, "ethertype 0x88cc");
    }

    proptest! {
        #[test]
        fn nothing_that_a_wire_can_bring_stops_the_agent(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            read(&bytes);
        }

        #[test]
        fn neither_does_a_packet_with_some_bytes_changed(at in 0..54_usize, value in any::<u8>(), len in 0..=54_usize) {
            let mut bytes = syn();
            bytes[at] = value;
            read(&bytes[..len]);
        }
    }
}
