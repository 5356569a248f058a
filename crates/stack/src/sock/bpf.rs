//! Classic BPF (`SO_ATTACH_FILTER`, bpf(4)): checked once, then run with a bound by construction: jumps go forward
//! only (`net/core/filter.c`, `bpf_check_classic`).

use ferronet_core::{Errno, Packet};

/// One instruction (`struct sock_filter`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BpfInsn {
    /// Operation.
    pub code: u16,
    /// Jump when true.
    pub jt: u8,
    /// Jump when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A checked program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BpfProg(Box<[BpfInsn]>);

/// Instructions at most (`BPF_MAXINSNS`).
const BPF_MAXINSNS: usize = 4096;
/// Words of scratch memory.
const MEMWORDS: usize = 16;

/// What a program can ask about a packet besides its bytes (`SKF_AD_*`).
#[derive(Clone, Copy, Debug, Default)]
pub struct BpfAux {
    /// EtherType.
    pub protocol: u16,
    /// `skb->pkt_type`.
    pub pkt_type: u8,
    /// Device index.
    pub ifindex: u32,
    /// Device type (`ARPHRD_*`).
    pub hatype: u16,
    /// Mark.
    pub mark: u32,
    /// Flow hash.
    pub rxhash: u32,
    /// VLAN tag control information.
    pub vlan_tci: u16,
    /// A random number.
    pub random: u32,
}

const SKF_AD_OFF: u32 = -0x1000i32 as u32;
/// `SKF_AD_ALU_XOR_X`: not a load, A is changed by X.
const SKF_AD_ALU_XOR_X: u32 = 40;
/// Ancillary data there is.
const KNOWN: [u32; 16] = [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, SKF_AD_ALU_XOR_X, 44, 48, 52, 56, 60];
const SKF_NET_OFF: u32 = -0x10_0000i32 as u32;
const SKF_LL_OFF: u32 = -0x20_0000i32 as u32;

/// No scratch word is read that was not written on every way to the read (`check_load_and_stores`). Jumps go forward only,
/// so one pass in order sees each instruction after all that lead to it.
fn reads_what_was_written(insns: &[BpfInsn]) -> bool {
    let mut masks = vec![u16::MAX; insns.len()];
    let mut valid: u16 = 0;
    for (pc, i) in insns.iter().enumerate() {
        let Some(here) = masks.get(pc) else { return false };
        valid &= here;
        let mut reach = |at: usize, valid: u16| {
            if let Some(m) = masks.get_mut(pc + 1 + at) {
                *m &= valid;
            }
        };
        match i.code {
            0x02 | 0x03 => valid |= 1 << i.k,
            0x60 | 0x61 if valid & 1 << i.k == 0 => return false,
            0x05 => {
                reach(i.k as usize, valid);
                valid = u16::MAX;
            }
            c if c & 7 == 5 => {
                reach(i.jt.into(), valid);
                reach(i.jf.into(), valid);
                valid = u16::MAX;
            }
            _ => {}
        }
    }
    true
}

impl BpfProg {
    /// Checks a program.
    ///
    /// # Errors
    /// `EINVAL` for unknown instructions, jumps out of the program, bad scratch cells, division by zero, or when it
    /// does not end in a return.
    pub fn new(insns: &[BpfInsn]) -> Result<BpfProg, Errno> {
        let n = insns.len();
        if n == 0 || n > BPF_MAXINSNS {
            return Err(Errno::EINVAL);
        }
        for (pc, i) in insns.iter().enumerate() {
            let left = n - pc - 1;
            let ok = match i.code {
                // BPF_LD, BPF_LDX. Beyond SKF_AD_OFF only what is known there.
                0x20 | 0x28 | 0x30 if i.k >= SKF_AD_OFF => KNOWN.contains(&(i.k - SKF_AD_OFF)),
                0x00 | 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 | 0x80 | 0x01 | 0x81 | 0xb1 => true,
                0x60 | 0x61 | 0x02 | 0x03 => (i.k as usize) < MEMWORDS,
                // ALU
                0x04 | 0x0c | 0x14 | 0x1c | 0x24 | 0x2c | 0x3c | 0x44 | 0x4c | 0x54 | 0x5c | 0x6c | 0x7c
                | 0x84 | 0x9c | 0xa4 | 0xac => true,
                0x34 | 0x94 => i.k != 0,
                0x64 | 0x74 => i.k < 32,
                // JMP
                0x05 => (i.k as usize) < left,
                0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d | 0x45 | 0x4d => {
                    usize::from(i.jt) < left && usize::from(i.jf) < left
                }
                // RET, MISC
                0x06 | 0x16 | 0x07 | 0x87 => true,
                _ => false,
            };
            if !ok {
                return Err(Errno::EINVAL);
            }
        }
        match insns.last().map(|i| i.code) {
            Some(0x06 | 0x16) if reads_what_was_written(insns) => Ok(BpfProg(insns.into())),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The instructions (`SO_GET_FILTER`).
    #[must_use]
    pub fn insns(&self) -> &[BpfInsn] {
        &self.0
    }

    /// Runs over a packet from its current position on: bytes to keep, 0 to drop. A load out of range ends it with 0.
    #[must_use]
    pub fn run(&self, p: &Packet, aux: &BpfAux) -> u32 {
        self.exec(p, aux).unwrap_or(0)
    }

    fn exec(&self, p: &Packet, aux: &BpfAux) -> Option<u32> {
        let (mut a, mut x, mut mem) = (0u32, 0u32, [0u32; MEMWORDS]);
        let mut pc = 0;
        // Jumps go forward only, so this ends after at most as many steps as there are instructions.
        loop {
            let i = self.0.get(pc)?;
            pc += 1;
            match i.code {
                0x00 => a = i.k,
                0x20 | 0x28 | 0x30 if i.k == SKF_AD_OFF + SKF_AD_ALU_XOR_X => a ^= x,
                0x20 | 0x28 | 0x30 if i.k >= SKF_AD_OFF => a = ancillary(p, aux, i.k - SKF_AD_OFF)?,
                0x20 => a = load(p, i.k, 4)?,
                0x28 => a = load(p, i.k, 2)?,
                0x30 => a = load(p, i.k, 1)?,
                0x40 => a = load(p, x.wrapping_add(i.k), 4)?,
                0x48 => a = load(p, x.wrapping_add(i.k), 2)?,
                0x50 => a = load(p, x.wrapping_add(i.k), 1)?,
                0x80 => a = p.len() as u32,
                0x60 => a = mem[i.k as usize],
                0x01 => x = i.k,
                0x81 => x = p.len() as u32,
                0x61 => x = mem[i.k as usize],
                0xb1 => x = (load(p, i.k, 1)? & 15) * 4,
                0x02 => mem[i.k as usize] = a,
                0x03 => mem[i.k as usize] = x,
                0x07 => x = a,
                0x87 => a = x,
                0x06 => return Some(i.k),
                0x16 => return Some(a),
                0x05 => pc += i.k as usize,
                c if c & 7 == 5 => {
                    let v = if c & 8 != 0 { x } else { i.k };
                    let yes = match c & 0xf0 {
                        0x10 => a == v,
                        0x20 => a > v,
                        0x30 => a >= v,
                        _ => a & v != 0,
                    };
                    pc += usize::from(if yes { i.jt } else { i.jf });
                }
                c => a = alu(c, a, if c & 8 != 0 { x } else { i.k })?,
            }
        }
    }
}

fn alu(code: u16, a: u32, v: u32) -> Option<u32> {
    Some(match code & 0xf0 {
        0x00 => a.wrapping_add(v),
        0x10 => a.wrapping_sub(v),
        0x20 => a.wrapping_mul(v),
        0x30 => a.checked_div(v)?,
        0x40 => a | v,
        0x50 => a & v,
        // By X the low five bits count, as in the kernel since it runs these programs as eBPF.
        0x60 => a.wrapping_shl(v),
        0x70 => a.wrapping_shr(v),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(v)?,
        _ => a ^ v,
    })
}

/// A load of 1, 2 or 4 bytes; negative offsets count from the network or the link header (`bpf_load_pointer`).
fn load(p: &Packet, k: u32, size: usize) -> Option<u32> {
    let mut b = [0; 4];
    let out = b.get_mut(4 - size..)?;
    let ok = if k >= SKF_NET_OFF {
        let at = (k - SKF_NET_OFF) as usize;
        match p.network().get(at..at + size) {
            Some(s) => {
                out.copy_from_slice(s);
                true
            }
            None => false,
        }
    } else if k >= SKF_LL_OFF {
        let at = (k - SKF_LL_OFF) as usize;
        match p.at(p.meta().mac).get(at..at + size) {
            Some(s) => {
                out.copy_from_slice(s);
                true
            }
            None => false,
        }
    } else {
        p.copy_bits(k as usize, out)
    };
    ok.then(|| u32::from_be_bytes(b))
}

/// `SKF_AD_PAY_OFFSET`: where the transport's payload begins, from the packet's position (`__skb_get_poff`).
fn payload_offset(p: &Packet) -> u32 {
    let network = p.network();
    let (header, protocol) = match network.first().map(|b| b >> 4) {
        Some(4) => (usize::from(network.first().map_or(5, |b| b & 15)) * 4, network.get(9)),
        Some(6) => (40, network.get(6)),
        _ => return 0,
    };
    let transport = match protocol {
        Some(6) => usize::from(network.get(header + 12).map_or(0, |b| b >> 4)) * 4,
        Some(17 | 136) => 8,
        Some(1 | 58) => 8,
        _ => 0,
    };
    let before = usize::from(p.meta().network).saturating_sub(usize::from(p.pos()));
    (before + header + transport) as u32
}

fn ancillary(p: &Packet, aux: &BpfAux, what: u32) -> Option<u32> {
    Some(match what {
        0 => u32::from(aux.protocol),
        4 => u32::from(aux.pkt_type),
        // Netlink attributes: no netlink message comes by here. There is one queue, 0.
        12 | 16 | 24 => 0,
        8 => aux.ifindex,
        20 => aux.mark,
        28 => u32::from(aux.hatype),
        32 => aux.rxhash,
        36 => 0,
        44 => u32::from(aux.vlan_tci),
        48 => u32::from(aux.vlan_tci != 0),
        52 => payload_offset(p),
        56 => aux.random,
        60 => 0x8100,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn i(code: u16, jt: u8, jf: u8, k: u32) -> BpfInsn {
        BpfInsn { code, jt, jf, k }
    }
    const RET: BpfInsn = BpfInsn { code: 6, jt: 0, jf: 0, k: 1 };

    #[test]
    fn programs_are_checked_as_the_kernel_checks_them() {
        for bad in [
            vec![],
            vec![i(0x00, 0, 0, 1)],                                          // no return
            vec![i(0x05, 0, 0, 1), RET],                                     // jump out
            vec![i(0x15, 0, 1, 0), RET],                                     // jump out when false
            vec![i(0x34, 0, 0, 0), RET],                                     // division by zero
            vec![i(0x64, 0, 0, 32), RET],                                    // shift too far
            vec![i(0x02, 0, 0, 16), RET],                                    // scratch cell 16
            vec![i(0x60, 0, 0, 3), RET],                                     // read before it is written
            vec![i(0x15, 0, 1, 0), i(0x02, 0, 0, 3), i(0x60, 0, 0, 3), RET], // written on one way only
            vec![i(0x20, 0, 0, SKF_AD_OFF + 2), RET],                        // no such ancillary data
            vec![i(0x0e, 0, 0, 0)],                                          // return X
        ] {
            assert_eq!(BpfProg::new(&bad), Err(Errno::EINVAL), "{bad:?}");
        }
        let good = [i(0x20, 0, 0, SKF_AD_OFF + 40), i(0x28, 0, 0, SKF_AD_OFF + 52), RET];
        assert!(BpfProg::new(&good).is_ok());
    }

    #[test]
    fn written_on_both_ways_may_be_read() {
        let p =
            [i(0x15, 0, 2, 0), i(0x02, 0, 0, 3), i(0x05, 0, 0, 1), i(0x02, 0, 0, 3), i(0x60, 0, 0, 3), RET];
        assert!(BpfProg::new(&p).is_ok());
    }
}
