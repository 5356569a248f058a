//! Rings of packet sockets in shared memory (Documentation/networking/packet_mmap.rst, `net/packet/af_packet.c`): the checks
//! of `PACKET_RX_RING` and the bytes of headers. The memory itself belongs to the edge.

use ferronet_core::Errno;
use ferronet_stack::sock::packet::{PacketSock, RxRing};

use super::opts::u32_at;
use crate::kernel::Received;

/// `TPACKET_ALIGNMENT`.
const ALIGNMENT: usize = 16;
/// Bytes of struct sockaddr_ll.
const SLL: usize = 20;
/// Bytes of struct tpacket_block_desc.
pub const BLOCK_HDR: usize = 48;
/// Bytes of a ring at most; the kernel stops where memory ends.
const MAX_RING: u64 = 1 << 30;
const PAGE: u32 = 4096;

fn align(n: usize) -> usize {
    n.next_multiple_of(ALIGNMENT)
}

/// Bytes of the header of a version, 0 to 2 for TPACKET_V1 to V3 (`PACKET_HDRLEN`).
///
/// # Errors
/// `EINVAL` for another version.
pub fn hdrlen(version: i32) -> Result<usize, Errno> {
    match version {
        0 | 1 => Ok(32),
        2 => Ok(48),
        _ => Err(Errno::EINVAL),
    }
}

/// `PACKET_RX_RING` (`packet_set_ring`): struct tpacket_req, or tpacket_req3 for V3. No blocks: the ring goes.
pub(super) fn set_rx_ring(p: &mut PacketSock, val: &[u8]) -> Result<(), Errno> {
    let v3 = p.version == 2;
    if val.len() < if v3 { 28 } else { 16 } {
        return Err(Errno::EINVAL);
    }
    let word = |i: usize| u32_at(val, i * 4);
    let (block_size, block_nr, frame_size, frame_nr) = (word(0)?, word(1)?, word(2)?, word(3)?);
    if block_nr == 0 {
        if frame_nr != 0 {
            return Err(Errno::EINVAL);
        }
        p.ring = None;
        return Ok(());
    }
    if p.ring.is_some() {
        return Err(Errno::EBUSY);
    }
    let (retire_ms, private) = if v3 { (word(4)?, word(5)?) } else { (0, 0) };
    // tp_hdrlen, which counts the address behind the header, too.
    let least = (align(hdrlen(p.version)?) + SLL) as u64 + u64::from(p.reserve);
    let in_block = block_size.checked_div(frame_size).unwrap_or(0);
    let bad = block_size == 0
        || i32::try_from(block_size).is_err()
        || !block_size.is_multiple_of(PAGE)
        || (v3 && u64::from(block_size) <= BLOCK_HDR as u64 + u64::from(private) + least)
        || u64::from(frame_size) < least
        || !(frame_size as usize).is_multiple_of(ALIGNMENT)
        || in_block == 0
        || u64::from(in_block) * u64::from(block_nr) != u64::from(frame_nr);
    if bad {
        return Err(Errno::EINVAL);
    }
    if u64::from(block_size) * u64::from(block_nr) > MAX_RING {
        return Err(Errno::ENOMEM);
    }
    p.ring = Some(RxRing {
        version: p.version,
        dgram: p.dgram,
        reserve: p.reserve,
        block_size,
        block_nr,
        frame_size,
        // DEFAULT_PRB_RETIRE_TOV.
        retire_ms: if retire_ms == 0 { 8 } else { retire_ms },
        private,
    });
    Ok(())
}

/// How a frame lies in a ring.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Header and sender's address, from the frame's start on; the status in it is 0.
    pub head: Vec<u8>,
    /// Where the status is in it.
    pub status_at: usize,
    /// The status that hands the frame to the program.
    pub status: u32,
    /// Where the data begins.
    pub data_at: usize,
    /// Bytes of data that are kept.
    pub snaplen: usize,
}

/// Lays out a received frame where `room` bytes are (`tpacket_rcv`). Where only the header fits, no data is kept.
/// `None` when `PACKET_RESERVE` puts it beyond what the header can say: then the kernel counts it in tp_drops.
#[must_use]
pub fn frame(ring: &RxRing, r: &Received, room: usize) -> Option<Frame> {
    let word = |at: usize| u32_at(&r.aux, at).unwrap_or(0);
    let half = |at: usize| r.aux.get(at..at + 2).map_or([0; 2], |b| [b[0], b[1]]);
    let maclen = usize::from(u16::from_ne_bytes(half(14)));
    let header = hdrlen(ring.version).ok()?;
    let full = align(header) + SLL;
    let reserve = ring.reserve as usize;
    let (mac, net) = if ring.dgram {
        let at = align(full) + 16 + reserve;
        (at, at)
    } else {
        let net = align(full + maclen.max(16)) + reserve;
        (net - maclen, net)
    };
    let net16 = u16::try_from(net).ok()?.to_ne_bytes();
    let data_at = mac.min(room);
    // Only V3 tells the program the place that was cut.
    let mac16 = u16::try_from(if ring.version == 2 { data_at } else { mac }).ok()?.to_ne_bytes();
    let snaplen = r.data.len().min(room - data_at);
    let (status, len, snap) = (word(0), word(4).to_ne_bytes(), (snaplen as u32).to_ne_bytes());
    let sec = ((r.stamp / 1_000_000_000) as u32).to_ne_bytes();
    let nsec = (r.stamp % 1_000_000_000) as u32;
    let zero = [0; 4];
    let (mut head, status_at) = match ring.version {
        0 => {
            let usec = (nsec / 1000).to_ne_bytes();
            ([&[0; 8][..], &len, &snap, &mac16, &net16, &sec, &usec].concat(), 0)
        }
        1 => {
            let vlan = [half(16), half(18)].concat();
            ([&zero[..], &len, &snap, &mac16, &net16, &sec, &nsec.to_ne_bytes(), &vlan].concat(), 0)
        }
        _ => {
            let vlan = [&zero[..], &half(16), &[0; 2], &half(18)].concat();
            let nsec = nsec.to_ne_bytes();
            ([&zero[..], &sec, &nsec, &snap, &len, &zero, &mac16, &net16, &vlan].concat(), 20)
        }
    };
    head.resize(align(header), 0);
    head.extend(r.name.iter().take(SLL));
    Some(Frame { head, status_at, status, data_at, snaplen })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn req(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    #[test]
    fn rings_are_checked_as_the_kernel_checks_them() {
        let mut p = PacketSock::new(false);
        p.version = 1;
        for bad in [
            [4096, 1, 64, 64],  // smaller than the headers are with 20 reserved bytes
            [4096, 1, 120, 34], // not a multiple of 16
            [4095, 1, 128, 31], // not pages
            [4096, 2, 2048, 3], // not all frames
            [4096, 1, 8192, 1], // a frame larger than a block
            [0, 1, 128, 32],
            [0, 0, 0, 1],
        ] {
            p.reserve = 20;
            assert_eq!(set_rx_ring(&mut p, &req(&bad)), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(set_rx_ring(&mut p, &req(&[4096, 1, 128])), Err(Errno::EINVAL));
        assert_eq!(set_rx_ring(&mut p, &req(&[1 << 30, 2, 1 << 16, 1 << 15])), Err(Errno::ENOMEM));
        assert_eq!(set_rx_ring(&mut p, &req(&[4096, 2, 128, 64])), Ok(()));
        assert_eq!(set_rx_ring(&mut p, &req(&[4096, 2, 128, 64])), Err(Errno::EBUSY));
        assert_eq!(set_rx_ring(&mut p, &req(&[0; 4])), Ok(()));
        assert_eq!(p.ring, None);
    }

    #[test]
    fn frames_lie_where_the_kernel_puts_them() {
        let mut p = PacketSock::new(false);
        p.version = 1;
        set_rx_ring(&mut p, &req(&[4096, 1, 256, 16])).unwrap();
        let mut r = Received { data: vec![7; 60], len: 60, name: vec![9; 20], ..Received::default() };
        r.stamp = 5_000_000_007;
        r.aux[..4].copy_from_slice(&1u32.to_ne_bytes());
        r.aux[4..8].copy_from_slice(&99u32.to_ne_bytes());
        r.aux[14..16].copy_from_slice(&14u16.to_ne_bytes());
        let f = frame(&p.ring.unwrap(), &r, 256).unwrap();
        // TPACKET2_HDRLEN is 52; with 16 for the link header and aligned, 80 is the network header.
        assert_eq!((f.data_at, f.snaplen, f.status, f.status_at), (66, 60, 1, 0));
        assert_eq!(f.head.len(), 52);
        assert_eq!(f.head[4..8], 99u32.to_ne_bytes());
        assert_eq!(f.head[12..16], [66, 0, 80, 0]);
        assert_eq!(f.head[16..24], [5, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(f.head[32..], [9; 20]);
        assert_eq!(frame(&p.ring.unwrap(), &r, 100).unwrap().snaplen, 34);
        // PACKET_RESERVE leaves no room for data, then none for the numbers.
        let tight = RxRing { reserve: 200, ..p.ring.unwrap() };
        let f = frame(&tight, &r, 256).unwrap();
        assert_eq!((f.data_at, f.snaplen, &f.head[12..14]), (256, 0, &266u16.to_ne_bytes()[..]));
        let f = frame(&RxRing { version: 2, ..tight }, &r, 256).unwrap();
        assert_eq!((f.data_at, f.snaplen, &f.head[24..26]), (256, 0, &256u16.to_ne_bytes()[..]));
        assert_eq!(frame(&RxRing { reserve: 65_500, ..tight }, &r, 256), None);
        let three = RxRing { version: 2, ..p.ring.unwrap() };
        let f = frame(&three, &r, 4000).unwrap();
        assert_eq!((f.data_at, f.status_at, f.head.len()), (82, 20, 68));
    }
}
