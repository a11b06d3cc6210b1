//! A capture file (pcapng, draft-ietf-opsawg-pcapng): each packet with its verdict as a comment, times in nanoseconds.
//!
//! Whole after each packet: who ends the command in whatever way has a file that can be read.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use grayxdp_common::limits::TRACE_HEAD_LEN;
use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        PcapNgBlock as _, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

use crate::{agent::shapes::TracedPacket, cli::error::CliError};

/// Times are in units of 10⁻⁹ s.
const NANOSECONDS: u8 = 9;

/// The file, and the interfaces that it has named.
pub(super) struct Capture {
    path: PathBuf,
    writer: PcapNgWriter<Box<dyn Write>>,
    interfaces: HashMap<String, u32>,
}

impl Capture {
    /// Makes the file anew; `-` is the standard output.
    pub(super) fn create(path: PathBuf) -> Result<Self, CliError> {
        let failed = |why: String| CliError::Capture { path: path.clone(), why };
        let file: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(&path).map_err(|error| failed(error.to_string()))?)
        };
        let writer = PcapNgWriter::new(file).map_err(|error| failed(error.to_string()))?;
        Ok(Self { path, writer, interfaces: HashMap::new() })
    }

    /// Adds a packet. Says whether anybody reads on.
    pub(super) fn write(&mut self, packet: &TracedPacket, one_in: u32) -> Result<bool, CliError> {
        match self.try_write(packet, one_in) {
            Ok(()) => Ok(true),
            Err(PcapError::IoError(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(CliError::Capture { path: self.path.clone(), why: error.to_string() }),
        }
    }

    fn try_write(&mut self, packet: &TracedPacket, one_in: u32) -> Result<(), PcapError> {
        let interface_id = self.interface(&packet.interface)?;
        // A time that cannot be read is none; the packet is worth more than its time.
        let time = humantime::parse_rfc3339(&packet.time).unwrap_or(UNIX_EPOCH);
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO),
            original_len: packet.length,
            data: Cow::Owned(bytes(&packet.head)),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment(packet, one_in)))],
        };
        self.writer.write_block(&block.into_block())?;
        self.writer.get_mut().flush().map_err(PcapError::IoError)
    }

    fn interface(&mut self, name: &str) -> Result<u32, PcapError> {
        if let Some(id) = self.interfaces.get(name) {
            return Ok(*id);
        }
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: u32::try_from(TRACE_HEAD_LEN).unwrap_or(u32::MAX),
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name.to_owned())),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.writer.write_block(&block.into_block())?;
        let id = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(name.to_owned(), id);
        Ok(id)
    }
}

fn comment(packet: &TracedPacket, one_in: u32) -> String {
    let mut text = format!("grayxdp: {} {}", packet.action, packet.reason);
    if let Some(service) = &packet.service {
        text.push_str(&format!(", service {service}"));
    }
    if let Some(backend) = packet.backend {
        text.push_str(&format!(", backend {backend}"));
    }
    if one_in > 1 {
        text.push_str(&format!(", one packet in {one_in}"));
    }
    text
}

/// From hexadecimal; ends where it is none.
fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map_while(byte).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;
    use crate::cli::trace::tests::packet;

    fn write(packets: &[TracedPacket]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("trace.pcapng");
        let mut capture = Capture::create(path.clone()).expect("created");
        for packet in packets {
            assert!(capture.write(packet, 4).expect("written"));
        }
        (directory, path)
    }

    fn syn() -> TracedPacket {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([198, 51, 100, 7], [203, 0, 113, 10], 64)
            .tcp(40_000, 80, 1, 1000)
            .syn();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"").expect("a vector");
        TracedPacket { head: bytes.iter().map(|byte| format!("{byte:02x}")).collect(), length: 54, ..packet() }
    }

    #[test]
    fn packets_come_back_with_time_interface_and_verdict() {
        let other = TracedPacket { interface: "eth1".to_owned(), ..syn() };
        let (_directory, path) = write(&[syn(), other, syn()]);
        let mut reader = PcapNgReader::new(File::open(path).expect("there")).expect("a capture");
        let (mut names, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.expect("a block") {
                Block::InterfaceDescription(block) => names.push(format!("{:?}", block.options)),
                Block::EnhancedPacket(block) => {
                    let comment = format!("{:?}", block.options);
                    packets.push((block.interface_id, block.timestamp, block.data.len(), comment));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(names, [r#"[IfName("eth0"), IfTsResol(9)]"#, r#"[IfName("eth1"), IfTsResol(9)]"#]);
        let comment =
            r#"[Comment("grayxdp: forward other_interface, service web, backend 10.0.1.10:8080, one packet in 4")]"#;
        let time = Duration::new(1_795_523_464, 123_456_789);
        let expected = [0, 1, 0].map(|interface| (interface, time, 54, comment.to_owned()));
        assert_eq!(packets, expected);
    }

    /// Where tcpdump is missing the crate's own reader, above, must do.
    #[test]
    fn tcpdump_reads_it() {
        let (_directory, path) = write(&[syn()]);
        let read = Command::new("tcpdump").args(["-n", "-tt", "--nano", "-r"]).arg(path).output();
        let Ok(read) = read else { return };
        let text = String::from_utf8_lossy(&read.stdout);
        let expected = "1795523464.123456789 IP 198.51.100.7.40000 > 203.0.113.10.80: Flags [S]";
        assert!(text.starts_with(expected), "{text}\n{}", String::from_utf8_lossy(&read.stderr));
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let path = PathBuf::from("/nowhere/trace.pcapng");
        let Err(error) = Capture::create(path) else { panic!("there is no such folder") };
        assert!(error.to_string().starts_with("cannot write /nowhere/trace.pcapng: No such file"), "{error}");
        assert_eq!(bytes("0a1fzz00"), [10, 31]);
    }
}
