//! Differences that were found, and mended: each as the packets that showed it, and how the last of them must end.

use grayxdp::kernel::DataPlane;
use grayxdp_common::verdict::Verdict;

use super::{rig::Rig, world};
use crate::fixture::in_network;

/// A row: what was wrong, whether by the told ways, packets in order, and how the last one ends.
type Row = (&'static str, bool, &'static [&'static str], Verdict);

const ROWS: [Row; 5] = [
    (
        "an ICMP error about an unknown flow of a full-nat service was passed with its quote changed",
        true,
        &[
            "0200000000a002000000000c08004500003800010000400113bec63364c8cb00710a0b00a5540000050045b8003c0001400000061343\
           cb00710ac633648200519c4176f83720",
        ],
        Verdict::PassedIcmpNoFlow,
    ),
    (
        "the same in IPv6",
        true,
        &[
            "0200000000a002000000000c86dd6001234500453a4020010db801008000000000000000000720010db800000000000000000000001702\
           008cfe0000050060012345024f114020010db800000000000000000000001720010db8010000000000000000000007006c0050024fd9be\
           dbb8d6ccdfe5733a6910f50a5b",
        ],
        Verdict::PassedIcmpNoFlow,
    ),
    (
        "the last of as many extension headers as are looked through was one too many",
        false,
        &[
            "0200000000a002000000000c86dd60012345004a2b4020010db801000009000000000000000720010db800000000000000000000001787\
           000104000000002c000104000000003c000000000000028c000104000000003c000104000000008c000104000000002c00010400000000\
           11000000000000020050006e000ae42dbe55",
        ],
        Verdict::HandedInterfaceUnknown,
    ),
    (
        "an ICMP error from a loopback address was forwarded",
        true,
        &[
            "0200000000a002000000000c86dd6001234500383a400000000000000000000000000000000120010db800000000000000000000001801\
           00261b000005006ff123450009114020010db800000000000000000000001820010db801000002000000000000000708439c4100090000",
        ],
        Verdict::DroppedMartianSource,
    ),
    (
        "an ICMP error from a multicast address was forwarded",
        false,
        &[
            "0200000000a002000000000c86dd6001234500573a40ff02000000000000000000000000000120010db800000000000000000000001803\
           00362400000500600123450027114020010db800000000000000000000001820010db801000009000000000000000700719c4100276991\
           3e4c35e4954c753e42ac8ef7f426ab8b590589034e3d94bedc80ba612dc923",
        ],
        Verdict::DroppedMartianSource,
    ),
];

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let text = |pair: &[u8]| String::from_utf8(pair.to_vec()).expect("digits");
    digits.chunks(2).map(|pair| u8::from_str_radix(&text(pair), 16).expect("two digits")).collect()
}

#[test]
fn differences_that_were_mended_do_not_come_back() {
    in_network("kept", |bpffs| {
        let setup = world::setup(bpffs);
        let plane = DataPlane::open(setup.clone()).expect("the program loads");
        let mut rig = Rig::new(setup, plane);
        for (description, is_leased, packets, expected) in ROWS {
            let mut run = rig.begin(is_leased);
            for (nth, packet) in packets.iter().enumerate() {
                let (verdict, difference) = run.packet(nth, bytes(packet));
                assert!(difference.is_none(), "{description}: {difference:?}");
                if nth + 1 == packets.len() {
                    assert_eq!(verdict, expected, "{description}");
                }
            }
            let counted = run.compare_counts(0);
            assert!(counted.is_none(), "{description}: {counted:?}");
            run.end();
        }
        rig.plane.detach_all().expect("the pins can be removed");
    });
}
