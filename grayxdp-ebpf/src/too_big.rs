//! The answer to a packet that is larger than the way onwards allows and must not be fragmented: ICMP "fragmentation
//! needed" (RFC 792, RFC 1191) or ICMPv6 "packet too big" (RFC 4443 3.2), from the address that it was sent to.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{csum::fold, verdict::Verdict};

use crate::{
    helpers,
    link::LinkHeader,
    packet::Packet,
    parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, PROTOCOL_ICMP, PROTOCOL_ICMPV6},
    route::Way,
    stages,
};

/// Bytes of the packet that the answer quotes: RFC 1812 4.3.2.3 asks for as many as fit into 576 bytes. A packet that is
/// too big for any network of today is longer than that.
const QUOTE_LEN: usize = 512;
const ICMP_LEN: usize = 8;
/// Of the whole IPv4 answer.
const LEN_V4: u16 = 540;
const _: () = assert!(LEN_V4 as usize == IPV4_LEN + ICMP_LEN + QUOTE_LEN);
const HOP_LIMIT: u8 = 64;
const TYPE_CODE_V4: u16 = 0x0304_u16.to_be();
const TYPE_CODE_V6: u16 = 0x0200_u16.to_be();

/// Turns the packet into the answer; it leaves where it came from. `mtu` in bytes.
#[inline(always)]
pub(crate) fn answer(context: &XdpContext, mtu: u16) -> Result<Way, Verdict> {
    if stages::grayxdp_too_big(context.ctx, u32::from(mtu)) != 0 {
        return Err(Verdict::DroppedRewriteFailed);
    }
    Ok(Way::without_hop(Verdict::AnsweredTooBig, mtu))
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "lengths of a frame")]
pub(crate) fn try_answer(context: &XdpContext, mtu: u32) -> Option<()> {
    let packet = Packet::new(context);
    let (ip_offset, ethertype) = parse::ip_offset(packet)?;
    let link = LinkHeader::read(packet, ip_offset)?.reversed();
    // VERIFIER: up to 6.12 it does not see that the tags' comparisons agree with each other, goes down ways that cannot
    // be, and knows no bound there.
    let ip_offset = packet.opaque_offset(ip_offset);
    let surplus = packet.len().checked_sub(ip_offset + QUOTE_LEN)?;
    let is_v4 = ethertype == ETHERTYPE_IPV4;
    helpers::move_end(context, -(surplus as i32))?;
    if is_v4 {
        helpers::move_start(context, -((IPV4_LEN + ICMP_LEN) as i32))?;
        let packet = Packet::new(context);
        link.write(packet, ETHERTYPE_IPV4)?;
        write_v4(packet, ip_offset, mtu)
    } else {
        helpers::move_start(context, -((IPV6_LEN + ICMP_LEN) as i32))?;
        let packet = Packet::new(context);
        link.write(packet, ETHERTYPE_IPV6)?;
        write_v6(packet, ip_offset, mtu)
    }
}

#[inline(always)]
fn write_v4(packet: Packet, ip_offset: usize, mtu: u32) -> Option<()> {
    const LEN: usize = LEN_V4 as usize;
    let all = packet.window::<LEN>(ip_offset)?;
    let quote = packet.window::<QUOTE_LEN>(ip_offset + IPV4_LEN + ICMP_LEN)?;
    let [source, destination] = [quote.u32::<12>(), quote.u32::<16>()];
    let header = all.prefix::<IPV4_LEN>();
    header.set_u16::<0>(0x4500_u16.to_be());
    header.set_u16::<2>(LEN_V4.to_be());
    header.set_u32::<4>(0);
    header.set_u8::<8>(HOP_LIMIT);
    header.set_u8::<9>(PROTOCOL_ICMP);
    header.set_u16::<10>(0);
    header.set_u32::<12>(destination);
    header.set_u32::<16>(source);
    header.set_u16::<10>(!fold(header.sum_u16::<IPV4_LEN>()));
    all.set_u16::<20>(TYPE_CODE_V4);
    all.set_u16::<22>(0);
    all.set_u32::<24>((mtu & 0xffff).to_be());
    let icmp = u64::from(TYPE_CODE_V4) + u64::from(all.u16::<26>());
    all.set_u16::<22>(!fold(quote.sum() + icmp));
    Some(())
}

#[inline(always)]
fn write_v6(packet: Packet, ip_offset: usize, mtu: u32) -> Option<()> {
    const LEN: usize = IPV6_LEN + ICMP_LEN + QUOTE_LEN;
    const PAYLOAD_LEN: u16 = LEN_V4 - 20;
    let all = packet.window::<LEN>(ip_offset)?;
    let quote = packet.window::<QUOTE_LEN>(ip_offset + IPV6_LEN + ICMP_LEN)?;
    let [source, destination] = parse::v6_addresses(quote.prefix::<IPV6_LEN>());
    let header = all.prefix::<IPV6_LEN>();
    header.set_u32::<0>((6_u32 << 28).to_be());
    header.set_u16::<4>(PAYLOAD_LEN.to_be());
    header.set_u8::<6>(PROTOCOL_ICMPV6);
    header.set_u8::<7>(HOP_LIMIT);
    let [a, b, c, d] = destination.words();
    header.set_u32::<8>(a);
    header.set_u32::<12>(b);
    header.set_u32::<16>(c);
    header.set_u32::<20>(d);
    let [a, b, c, d] = source.words();
    header.set_u32::<24>(a);
    header.set_u32::<28>(b);
    header.set_u32::<32>(c);
    header.set_u32::<36>(d);
    all.set_u16::<40>(TYPE_CODE_V6);
    all.set_u16::<42>(0);
    all.set_u32::<44>(mtu.to_be());
    // The pseudo-header (RFC 8200 8.1): both addresses, as they also stand in the quote, length and protocol.
    let pseudo = u64::from(PAYLOAD_LEN.to_be()) + u64::from(u16::from(PROTOCOL_ICMPV6).to_be());
    let addresses = header.sum_u16::<40>() - header.prefix::<8>().sum_u16::<8>();
    let icmp = u64::from(TYPE_CODE_V6) + u64::from(all.u16::<44>()) + u64::from(all.u16::<46>());
    all.set_u16::<42>(!fold(quote.sum() + addresses + pseudo + icmp));
    Some(())
}
