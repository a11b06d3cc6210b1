//! What happens in an episode, as recipes: a packet that answers another one is made from what became of that one, so that
//! an episode can be run again, also with some of its steps left out.

use std::{collections::HashMap, net::IpAddr};

use grayxdp::kernel::Setup;
use grayxdp_common::{ids::Version, weight::Weight};

use super::{
    craft::{Shape, TCP, UDP, sight},
    dice::Dice,
};
use crate::fixture::ip;

/// One thing that happens; `id` stays when others are left out.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) id: usize,
    pub(super) what: What,
    pub(super) damage: Vec<Damage>,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Packet(Box<Shape>),
    /// From where the packet of another step went, back to where it came from.
    Answer {
        of: usize,
        shape: Box<Shape>,
    },
    /// An ICMP error about the packet of another step, as it left.
    Error {
        of: usize,
        from: Option<IpAddr>,
        kind: [u8; 2],
        len: usize,
        shape: Box<Shape>,
    },
    /// The very packet of another step, as it came in.
    Again {
        of: usize,
    },
    Weights {
        service: usize,
        weights: Vec<Weight>,
    },
    /// All flows of a version of all services, or of one.
    Sever {
        service: Option<usize>,
        version: Version,
    },
}

/// What a packet suffers on its way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Damage {
    Flip { bit: usize },
    Set { at: usize, value: u8 },
    Cut { len: usize },
    Grow { by: usize },
}

/// What came in and went out.
pub(super) type Past = HashMap<usize, (Vec<u8>, Vec<u8>)>;

impl Step {
    /// The packet, if the steps that it is made from are there.
    pub(super) fn packet(&self, past: &Past) -> Option<Vec<u8>> {
        let mut bytes = match &self.what {
            What::Packet(shape) => shape.bytes(),
            What::Again { of } => past.get(of)?.0.clone(),
            What::Answer { of, shape } => {
                let seen = sight(&past.get(of)?.1)?;
                let mut shape = shape.clone();
                (shape.source, shape.destination, shape.protocol) = (seen.destination, seen.source, seen.protocol);
                shape.for_family();
                shape.bytes()
            }
            What::Error { of, from, kind, len, shape } => {
                let seen = sight(&past.get(of)?.1)?;
                let mut shape = shape.clone();
                let is_v4 = seen.source.0.is_ipv4();
                let from = from.filter(|from| from.is_ipv4() == is_v4).unwrap_or(seen.destination.0);
                (shape.source, shape.destination) = ((from, 0), (seen.source.0, 0));
                shape.protocol = if is_v4 { 1 } else { 58 };
                shape.for_family();
                shape.payload = vec![kind[0], kind[1], 0, 0, 0, 0, 5, 0];
                shape.payload.extend(seen.ip.iter().take(*len));
                shape.bytes()
            }
            What::Weights { .. } | What::Sever { .. } => return None,
        };
        for damage in &self.damage {
            damage.suffer(&mut bytes);
        }
        // The kernel runs no shorter ones.
        bytes.resize(bytes.len().clamp(14, 1_900), 0);
        Some(bytes)
    }
}

impl Damage {
    fn suffer(self, bytes: &mut Vec<u8>) {
        bytes.resize(bytes.len().max(1), 0);
        let len = bytes.len();
        match self {
            Self::Flip { bit } => bytes[bit / 8 % len] ^= 1 << (bit % 8),
            Self::Set { at, value } => bytes[at % len] = value,
            Self::Cut { len: cut } => bytes.truncate(cut % len),
            Self::Grow { by } => bytes.resize(len + by, 0x55),
        }
    }

    fn any(dice: &mut Dice) -> Self {
        match dice.under(8) {
            0 => Self::Cut { len: dice.under(1 << 16) },
            1 => Self::Grow { by: dice.under(40) },
            2..=4 => {
                let reach = dice.pick(&[40, 80, 160]);
                Self::Set { at: dice.under(reach), value: dice.byte() }
            }
            _ => {
                let reach = dice.pick(&[40, 80, 160, 1500]);
                Self::Flip { bit: dice.under(reach * 8) }
            }
        }
    }
}

impl Shape {
    /// Leaves out what the other family has not got.
    fn for_family(&mut self) {
        if self.source.0.is_ipv4() {
            self.extensions.clear();
        } else {
            self.option_words = 0;
        }
    }
}

const FLAGS: [u8; 20] = [2, 2, 2, 2, 2, 16, 16, 16, 24, 24, 18, 17, 17, 4, 20, 20, 1, 0, 3, 0xc2];
/// What is looked for in responses, and what nearly is.
const RESPONSES: [&[u8]; 14] = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.0 302\r\n",
    b"HTTP/1.1 404 ",
    b"HTTP/1.1 503 x",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 101 ",
    b"HTTP/1.1 700 ",
    b"HTTP/1.1 20",
    b"\x16\x03\x03\x01\x00",
    b"\x15\x03\x03\x00\x02",
    b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0",
    b"\x12\x34\x81\x82\0\x01\0\x01\0\0\0\0",
    b"\0\x40\x12\x34\x81\x83\0\x01\0\x01\0\0\0\0",
    b"\x12\x34\x01\x80\0\x01\0\x01\0\0\0\0",
];
const EXTENSIONS: [u8; 9] = [0, 43, 44, 51, 60, 135, 139, 140, 60];

/// Fields but for the ends.
fn details(dice: &mut Dice, is_v4: bool) -> Shape {
    let nothing = (ip("0.0.0.0"), 0);
    let tags =
        if dice.one_in(8) { (0..dice.under(4)).map(|_| dice.pick(&[0x8100, 0x88a8])).collect() } else { Vec::new() };
    let fragment = if dice.one_in(12) {
        dice.pick(&[0x2000, 0x2000, 0x6000, 0x2001, 0x0003, 0x1fff])
    } else {
        dice.pick(&[0, 0x4000])
    };
    let mut extensions = Vec::new();
    if !is_v4 {
        let count = if dice.one_in(60) {
            dice.under(11)
        } else if dice.one_in(8) {
            dice.under(4)
        } else {
            0
        };
        extensions = (0..count).map(|_| dice.pick(&EXTENSIONS)).collect();
        if fragment & 0x3fff != 0 || dice.one_in(40) {
            extensions.push(44);
        }
    }
    let size = match dice.under(12) {
        0 => dice.under(1_500),
        1 => 900 + dice.under(500),
        2 => 0,
        _ => dice.under(40),
    };
    let random = (0..size).map(|_| dice.byte()).collect();
    let payload = if dice.one_in(3) { [dice.pick(&RESPONSES).to_vec(), random].concat() } else { random };
    Shape {
        tags,
        source: nothing,
        destination: nothing,
        protocol: TCP,
        hop_limit: if dice.one_in(30) { dice.byte() & 3 } else { 64 },
        traffic_class: dice.pick(&[0, 0, 0, 46 << 2, 8 << 2, 3, 0xff]),
        fragment,
        id: u16::try_from(dice.under(3)).expect("small"),
        option_words: if is_v4 && dice.one_in(12) { dice.under(11) } else { 0 },
        extensions,
        flags: dice.pick(&FLAGS),
        numbers: [dice.word(), dice.word()].map(|word| u32::try_from(word >> 32).expect("32 bits")),
        tcp_option_words: if dice.one_in(6) { dice.under(11) } else { 0 },
        has_udp_checksum: !dice.one_in(6),
        payload,
        padding: if dice.one_in(10) { dice.under(12) } else { 0 },
    }
}

fn client(dice: &mut Dice, is_v4: bool) -> IpAddr {
    if dice.one_in(60) {
        let v4 = ["0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.77.2.10", "203.0.113.10", "10.77.1.7"];
        let v6 = ["::", "::1", "ff02::1", "::ffff:198.51.100.7", "fd77:0:0:2::10", "2001:db8::10", "fd77:0:0:1::7"];
        return ip(if is_v4 { dice.pick(&v4) } else { dice.pick(&v6) });
    }
    if is_v4 {
        return IpAddr::from([198, 51, 100, dice.pick(&[7, 17, 33, 60, 130, 200])]);
    }
    ip(dice.pick(&[
        "2001:db8:100::7",
        "2001:db8:100:2::7",
        "2001:db8:100:4::7",
        "2001:db8:100:9::7",
        "2001:db8:100:8000::7",
    ]))
}

/// A packet to one of the services, mostly.
fn request(dice: &mut Dice, setup: &Setup) -> Shape {
    let service = &setup.services[dice.under(setup.services.len())];
    let is_v4 = service.vip.is_ipv4();
    let mut shape = details(dice, is_v4);
    shape.protocol = match service.protocol {
        grayxdp::config::Protocol::Tcp => TCP,
        grayxdp::config::Protocol::Udp => UDP,
    };
    if dice.one_in(60) {
        shape.protocol = dice.pick(&[TCP, UDP, 47, 132, 59, 1, 58]);
    }
    let port = service.canary_port.filter(|_| dice.one_in(3)).unwrap_or(service.port);
    let port = if dice.one_in(60) { 9 } else { port };
    shape.source = (client(dice, is_v4), dice.pick(&[40_000, 40_001, 40_002, 80]));
    shape.destination = (service.vip, port);
    if dice.one_in(40) {
        // A backend's own packet, to anybody.
        let backends = &service.pools[0];
        let Some(backend) = backends.first().filter(|backend| backend.address.is_ipv4() == is_v4) else { return shape };
        shape.destination = shape.source;
        shape.source = (backend.address.ip(), backend.address.port());
    }
    if dice.one_in(200) {
        shape.source = shape.destination;
    }
    if shape.protocol == 1 || shape.protocol == 58 {
        shape.payload.resize(shape.payload.len().max(8), 0);
    }
    shape
}

/// An echo request, or an error about a packet that a service might have sent.
fn message(dice: &mut Dice, setup: &Setup) -> Shape {
    let mut quoted = request(dice, setup);
    let is_v4 = quoted.source.0.is_ipv4();
    let mut shape = details(dice, is_v4);
    shape.protocol = if is_v4 { 1 } else { 58 };
    shape.source = (client(dice, is_v4), 0);
    shape.destination = (quoted.destination.0, 0);
    if !dice.one_in(5) {
        shape.fragment = 0;
        shape.extensions.clear();
    }
    if dice.one_in(2) {
        let kind = if is_v4 { 8 } else { 128 };
        let kind = if dice.one_in(10) { dice.byte() } else { kind };
        shape.payload = [vec![kind, 0, 0, 0, 1, 2, 3, 4], shape.payload].concat();
        return shape;
    }
    (quoted.source, quoted.destination) = (quoted.destination, quoted.source);
    quoted.tags.clear();
    let kind = if is_v4 { dice.pick(&[3, 11, 12]) } else { dice.pick(&[1, 2, 3, 4]) };
    let quote = quoted.bytes()[14..].to_vec();
    let len = dice.pick(&[28, 48, 64, 200, 548]);
    shape.payload = [vec![kind, 0, 0, 0, 0, 0, 5, 0], quote.into_iter().take(len).collect()].concat();
    shape
}

/// The next step of an episode, whose steps so far have the ids under `id`.
pub(super) fn next(dice: &mut Dice, setup: &Setup, id: usize) -> Step {
    let recent = |dice: &mut Dice| id.saturating_sub(1 + dice.under(6));
    let what = match dice.under(100) {
        0 => {
            let service = dice.under(setup.services.len());
            let count = setup.services[service].shards.count();
            let weight = |dice: &mut Dice| dice.pick(&[0, 1, 5_000, 5_000, 9_999, 10_000]);
            let weights = (0..count).map(|_| Weight::from_hundredths(weight(dice)).expect("a weight")).collect();
            What::Weights { service, weights }
        }
        1 | 2 => {
            let one = dice.under(setup.services.len());
            What::Sever { service: dice.one_in(4).then_some(one), version: dice.pick(&[Version::V1, Version::V2]) }
        }
        3..=30 => What::Answer { of: recent(dice), shape: Box::new(details(dice, dice_family(id))) },
        31..=40 => What::Error {
            of: recent(dice),
            from: dice.pick(&[None, Some(ip("192.0.2.77")), Some(ip("2001:db8:77::1"))]),
            kind: [dice.pick(&[3, 3, 11, 1, 2, 4, 12, 5]), dice.pick(&[0, 4])],
            len: dice.pick(&[20, 27, 28, 40, 48, 60, 64, 200, 548, 1_200]),
            shape: Box::new(Shape { fragment: 0, ..details(dice, true) }),
        },
        41..=52 => What::Again { of: recent(dice) },
        53..=57 => What::Packet(Box::new(message(dice, setup))),
        _ => What::Packet(Box::new(request(dice, setup))),
    };
    let hits = if dice.one_in(4) { 1 + dice.under(3) } else { 0 };
    Step { id, what, damage: (0..hits).map(|_| Damage::any(dice)).collect() }
}

/// Options and extension headers of either family; those that do not fit are left out later.
fn dice_family(id: usize) -> bool {
    id.is_multiple_of(2)
}

/// The addresses of a packet, for people.
pub(super) fn ends(frame: &[u8]) -> String {
    sight(frame).map_or_else(String::new, |sight| {
        let text = |(address, port)| format!("{address} {port}");
        format!("{} > {} protocol {}", text(sight.source), text(sight.destination), sight.protocol)
    })
}
