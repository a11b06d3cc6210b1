//! What feeds packets: BPF_PROG_TEST_RUN gives a program the packet that it has just rewritten, so each time the head is
//! put back first, and made the next flow's.
//!
//! Words are restored field by field: a load that spans two stores would wait for both to reach the cache.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, xdp_md},
    btf_maps::Array,
    helpers::generated::bpf_xdp_adjust_head,
    macros::btf_map,
};

use crate::{
    course::{
        BACKEND_TO_SOURCE, CLIENT, CLIENT_NETWORK, CLIENT_PORT_FIRST, CLIENT_PORTS, Course, FRAME_LEN, NOTED_FLOWS_MAX,
        NOTES_PER_LINE,
    },
    frame::{self, Frame},
};

const MAPPED: usize = BPF_F_MMAPABLE as usize;
/// Bytes of the frame that are restored.
const HEAD: usize = 74;

/// Written by userspace; `position` by the harness.
#[btf_map]
static COURSE: Array<Course, 1, MAPPED> = Array::new();

/// What each flow got: its backend's last octet, its source's last octet, its source port. In the way of every packet of
/// a backend, also when the harness runs alone.
#[btf_map]
static NOTES: Array<[u32; NOTES_PER_LINE], { NOTED_FLOWS_MAX as usize / NOTES_PER_LINE }, MAPPED> = Array::new();

/// Puts the packet back and makes it the next one. Returns the number, plus one, of a flow that is to be noted.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn bench_prepare(context: *mut xdp_md) -> u64 {
    let Some(course) = COURSE.get_ptr_mut(0) else { return 0 };
    // SAFETY: the value of a map that nobody else uses while packets run.
    let course = unsafe { &mut *course };
    if course.moves != 0 && move_back(context) != 0 {
        return 0;
    }
    let flow = course.position;
    course.position = if course.is_in_order != 0 {
        flow.wrapping_add(1)
    } else {
        // Full period modulo any power of two (Hull and Dobell 1962).
        flow.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & course.mask
    };
    let Some(frame) = frame::of::<HEAD>(context) else { return 0 };
    restore(frame, course);
    turn(frame, course, flow);
    if course.notes != 0 { u64::from(flow) + 1 } else { 0 }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "lengths of a frame")]
fn move_back(context: *mut xdp_md) -> i64 {
    let surplus = frame::len(context) as i32 - FRAME_LEN as i32;
    // SAFETY: the context that the program was given; no pointer into the packet is in use.
    unsafe { bpf_xdp_adjust_head(context, surplus) }
}

#[inline(always)]
fn restore(frame: Frame<HEAD>, course: &Course) {
    let [a, b, c] = course.macs;
    frame.set_u32::<0>(a);
    frame.set_u32::<4>(b);
    frame.set_u32::<8>(c);
    #[expect(clippy::cast_possible_truncation, reason = "16 bits")]
    frame.set_u16::<12>(course.ethertype as u16);
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = course.words;
    frame.set_u32::<14>(a);
    frame.set_u32::<18>(b);
    frame.set_u32::<22>(c);
    frame.set_u32::<26>(d);
    frame.set_u32::<30>(e);
    frame.set_u32::<34>(f);
    frame.set_u32::<38>(g);
    frame.set_u32::<42>(h);
    frame.set_u32::<46>(i);
    frame.set_u32::<50>(j);
    frame.set_u32::<54>(k);
    frame.set_u32::<58>(l);
    frame.set_u32::<62>(m);
    frame.set_u32::<66>(n);
    frame.set_u32::<70>(o);
}

/// Gives the packet the addresses and ports of a flow.
#[inline(always)]
fn turn(frame: Frame<HEAD>, course: &Course, flow: u32) {
    let client = (CLIENT_NETWORK | (flow / CLIENT_PORTS)).to_be();
    let client_port = wire_port(CLIENT_PORT_FIRST | (flow & (CLIENT_PORTS - 1)));
    let service_port = wire_port(course.service_port + (flow & course.service_mask));
    if course.side == CLIENT {
        let ports = client_port | (service_port << 16);
        if course.is_v6 == 0 {
            frame.set_u32::<26>(client);
            frame.set_u32::<34>(ports);
        } else {
            frame.set_u32::<34>(client);
            frame.set_u32::<54>(ports);
        }
        return;
    }
    let line = NOTES.get(flow / 16);
    let note = line.map_or(0, |line| line.get((flow & 15) as usize).copied().unwrap_or(0));
    let is_to_source = course.side == BACKEND_TO_SOURCE;
    let ports = service_port | if is_to_source { note & 0xffff_0000 } else { client_port << 16 };
    let source = |network: u32| (network & 0x00ff_ffff) | note << 24;
    let destination =
        |network: u32| if is_to_source { (network & 0x00ff_ffff) | (note & 0xff00) << 16 } else { client };
    if course.is_v6 == 0 {
        frame.set_u32::<26>(source(course.words[3]));
        frame.set_u32::<30>(destination(course.words[4]));
        frame.set_u32::<34>(ports);
    } else {
        frame.set_u32::<34>(source(course.words[5]));
        frame.set_u32::<50>(destination(course.words[9]));
        frame.set_u32::<54>(ports);
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a port")]
fn wire_port(port: u32) -> u32 {
    u32::from((port as u16).to_be())
}

/// Notes what a flow got, from the packet as it leaves.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn bench_note(context: *mut xdp_md, numbered: u64) -> u64 {
    let Some(course) = COURSE.get(0) else { return 0 };
    let Some(frame) = frame::of::<HEAD>(context) else { return 0 };
    let (backend, source, port) = if course.is_v6 == 0 {
        (frame.u8::<33>(), frame.u8::<29>(), frame.u16::<34>())
    } else {
        (frame.u8::<53>(), frame.u8::<37>(), frame.u16::<54>())
    };
    #[expect(clippy::cast_possible_truncation, reason = "a flow's number, widened by `bench_prepare`")]
    let flow = (numbered - 1) as u32;
    if let Some(line) = NOTES.get_ptr_mut(flow / 16) {
        // SAFETY: as in `bench_prepare`.
        if let Some(note) = unsafe { &mut *line }.get_mut((flow & 15) as usize) {
            *note = u32::from(backend) | u32::from(source) << 8 | u32::from(port) << 16;
        }
    }
    0
}
