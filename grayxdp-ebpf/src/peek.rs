//! The first bytes of a response: did the server do well? Read in place; what does not match is unknown, never guessed.

use grayxdp_common::layout::{SERVICE_PEEK_DNS, SERVICE_PEEK_HTTP1, SERVICE_PEEK_TLS};

use crate::packet::{OFFSET_MAX, Packet};

const PEEKS: u16 = SERVICE_PEEK_DNS | SERVICE_PEEK_HTTP1 | SERVICE_PEEK_TLS;
/// The most bytes of a response that are looked at; offsets behind those that packets are read at would wrap.
const HEAD_MAX: usize = 16;

/// What a response says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nobody asked.
    None,
    /// All is well.
    Good,
    /// The client's fault.
    ClientError,
    /// The server's fault.
    ServerError,
    /// It could not be read.
    Unknown,
    /// The response proper is still to come (HTTP 100 and the like).
    Interim,
}

/// A response's payload.
#[derive(Clone, Copy)]
pub(crate) struct Payload {
    /// Where it begins in the packet.
    pub(crate) offset: usize,
    /// Its bytes.
    pub(crate) len: usize,
    pub(crate) is_udp: bool,
    /// Whether it answers the first turn of its connection.
    pub(crate) is_first: bool,
}

/// Looks into a response, as the flags of its service say.
#[inline(always)]
pub(crate) fn answer(packet: Packet, payload: Payload, service_flags: u16) -> Answer {
    let Payload { offset, len, is_udp, is_first } = payload;
    if offset > OFFSET_MAX - HEAD_MAX {
        return if service_flags & PEEKS != 0 { Answer::Unknown } else { Answer::None };
    }
    if service_flags & SERVICE_PEEK_HTTP1 != 0 {
        return http1(packet, offset, len).unwrap_or(Answer::Unknown);
    }
    if service_flags & SERVICE_PEEK_DNS != 0 {
        // Over TCP, two bytes of length come first (RFC 1035 4.2.2).
        let prefix = if is_udp { 0 } else { 2 };
        return dns(packet, offset + prefix, len.saturating_sub(prefix)).unwrap_or(Answer::Unknown);
    }
    if service_flags & SERVICE_PEEK_TLS != 0 && is_first {
        return tls(packet, offset, len).unwrap_or(Answer::Unknown);
    }
    Answer::None
}

/// The status line (RFC 9112 4): `HTTP/1.x NNN`, and a space or the line's end.
#[inline(always)]
fn http1(packet: Packet, offset: usize, payload_len: usize) -> Option<Answer> {
    const HTTP: u32 = u32::from_ne_bytes(*b"HTTP");
    const SLASH_ONE: u16 = u16::from_ne_bytes(*b"/1");
    const CONTINUE_LEN: usize = b"HTTP/1.1 100 Continue\r\n\r\n".len();
    if payload_len < 13 {
        return None;
    }
    let line = packet.window::<13>(offset)?;
    let digit = |byte: u8| byte.wrapping_sub(b'0') <= 9;
    let is_status_line = line.u32::<0>() == HTTP
        && line.u16::<4>() == SLASH_ONE
        && line.u8::<6>() == b'.'
        && digit(line.u8::<7>())
        && line.u8::<8>() == b' '
        && digit(line.u8::<10>())
        && digit(line.u8::<11>())
        && matches!(line.u8::<12>(), b' ' | b'\r' | b'\n');
    if !is_status_line {
        return None;
    }
    match line.u8::<9>() {
        // 101 (Switching Protocols) ends HTTP on this connection; the other ones come before the response proper.
        b'1' if line.u8::<10>() == b'0' && line.u8::<11>() == b'1' => Some(Answer::Good),
        // More than a bare 100 Continue: the final answer may be in it, too.
        b'1' if line.u8::<10>() == b'0' && line.u8::<11>() == b'0' && payload_len > CONTINUE_LEN => None,
        b'1' => Some(Answer::Interim),
        b'2' | b'3' => Some(Answer::Good),
        b'4' => Some(Answer::ClientError),
        b'5' => Some(Answer::ServerError),
        _ => None,
    }
}

/// The type of the server's first record (RFC 8446 5.1): a handshake, or an alert in its place.
#[inline(always)]
fn tls(packet: Packet, offset: usize, payload_len: usize) -> Option<Answer> {
    if payload_len < 5 {
        return None;
    }
    let record = packet.window::<5>(offset)?;
    match (record.u8::<0>(), record.u8::<1>()) {
        (22, 3) => Some(Answer::Good),
        (21, 3) => Some(Answer::ServerError),
        _ => None,
    }
}

/// The response code of a DNS message (RFC 1035 4.1.1): NOERROR and NXDOMAIN are answers, SERVFAIL is none.
#[inline(always)]
fn dns(packet: Packet, offset: usize, payload_len: usize) -> Option<Answer> {
    if payload_len < 12 {
        return None;
    }
    let header = packet.window::<12>(offset)?;
    let is_response = header.u8::<2>() & 0x80 != 0;
    match header.u8::<3>() & 0x0f {
        0 | 3 if is_response => Some(Answer::Good),
        2 if is_response => Some(Answer::ServerError),
        _ => None,
    }
}
