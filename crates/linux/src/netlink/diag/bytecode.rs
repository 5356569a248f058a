//! The filter language of inet_diag (`INET_DIAG_REQ_BYTECODE`, `net/ipv4/inet_diag.c`): forward jumps only, so that
//! every program ends.

use core::net::IpAddr;

use ferronet_core::Errno;

use super::super::codec::Fields;
use super::rows::Row;

/// Operations (`INET_DIAG_BC_*`).
mod op {
    pub(super) const NOP: u8 = 0;
    pub(super) const JMP: u8 = 1;
    pub(super) const S_GE: u8 = 2;
    pub(super) const S_LE: u8 = 3;
    pub(super) const D_GE: u8 = 4;
    pub(super) const D_LE: u8 = 5;
    pub(super) const AUTO: u8 = 6;
    pub(super) const S_COND: u8 = 7;
    pub(super) const D_COND: u8 = 8;
    pub(super) const DEV_COND: u8 = 9;
    pub(super) const MARK_COND: u8 = 10;
    pub(super) const S_EQ: u8 = 11;
    pub(super) const D_EQ: u8 = 12;
    pub(super) const CGROUP_COND: u8 = 13;
}

/// Bytes of `struct inet_diag_bc_op`.
const OP: usize = 4;

/// One operation at an offset: code, bytes to go on when true and when false, operand.
fn at(code: &[u8], pos: usize) -> Option<(u8, usize, usize, &[u8])> {
    let rest = code.get(pos..)?;
    let mut f = Fields(rest.get(..OP)?);
    let (c, yes, no) = (f.u8(), f.u8(), f.u16());
    Some((c, usize::from(yes), usize::from(no), rest.get(OP..)?))
}

/// Bytes an operation has itself.
fn size(c: u8, operand: &[u8]) -> Option<usize> {
    Some(match c {
        op::NOP | op::JMP | op::AUTO => OP,
        op::S_GE | op::S_LE | op::D_GE | op::D_LE | op::S_EQ | op::D_EQ | op::DEV_COND => 2 * OP,
        op::MARK_COND => 3 * OP,
        op::CGROUP_COND => 3 * OP,
        op::S_COND | op::D_COND => {
            // struct inet_diag_hostcond: family, prefix length, port, address.
            let mut f = Fields(operand.get(..8)?);
            let (family, len) = (f.u8(), f.u8());
            let bytes = match family {
                2 => 4,
                10 => 16,
                0 => 0,
                _ => return None,
            };
            if usize::from(len) > 8 * bytes {
                return None;
            }
            OP + 8 + bytes
        }
        _ => return None,
    })
}

/// Checks a program (`inet_diag_bc_audit`).
///
/// # Errors
/// `EINVAL` for an unknown operation or a jump that leaves the program or lands inside an operation.
pub(super) fn audit(code: &[u8]) -> Result<(), Errno> {
    let mut starts = Vec::new();
    let mut pos = 0;
    while pos < code.len() {
        starts.push(pos);
        let (c, yes, no, operand) = at(code, pos).ok_or(Errno::EINVAL)?;
        let own = size(c, operand).ok_or(Errno::EINVAL)?;
        let left = code.len() - pos;
        if own > left {
            return Err(Errno::EINVAL);
        }
        // A false condition may jump just beyond the end, which means no.
        let far = no < OP || no > left + OP || no % 4 != 0;
        if c != op::NOP && far {
            return Err(Errno::EINVAL);
        }
        if yes < own || yes > left || yes % 4 != 0 {
            return Err(Errno::EINVAL);
        }
        pos += yes;
    }
    for p in &starts {
        let Some((c, _, no, _)) = at(code, *p) else { return Err(Errno::EINVAL) };
        let target = p + no;
        if c != op::NOP && target < code.len() && !starts.contains(&target) {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}

/// Does a socket pass (`inet_diag_bc_run`)? The program was audited.
pub(super) fn run(code: &[u8], row: &Row) -> bool {
    let mut pos = 0;
    while pos < code.len() {
        let Some((c, yes, no, operand)) = at(code, pos) else { return false };
        let hit = match c {
            op::NOP => true,
            op::JMP => false,
            op::S_EQ => row.local.1 == port(operand),
            op::S_GE => row.local.1 >= port(operand),
            op::S_LE => row.local.1 <= port(operand),
            op::D_EQ => row.remote.1 == port(operand),
            op::D_GE => row.remote.1 >= port(operand),
            op::D_LE => row.remote.1 <= port(operand),
            op::AUTO => !row.bound_port,
            op::S_COND => host(operand, row.local, row.v6),
            op::D_COND => host(operand, row.remote, row.v6),
            op::DEV_COND => Fields(operand).u32() == row.dev,
            op::MARK_COND => {
                let mut f = Fields(operand);
                let (mark, mask) = (f.u32(), f.u32());
                row.mark & mask == mark
            }
            _ => false,
        };
        let step = if hit { yes } else { no };
        if step < OP {
            return false;
        }
        pos += step;
    }
    pos == code.len()
}

/// The port of a comparison: the second half of the operation that follows.
fn port(operand: &[u8]) -> u16 {
    let mut f = Fields(operand);
    f.u16();
    f.u16()
}

/// An IPv4 address in the first bytes of sixteen.
fn four(raw: u32) -> [u8; 16] {
    let [a, b, c, d] = raw.to_ne_bytes();
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// `INET_DIAG_BC_S_COND` and `D_COND`: port, prefix.
fn host(operand: &[u8], who: (IpAddr, u16), v6: bool) -> bool {
    let mut f = Fields(operand);
    let (family, len) = (f.u8(), u32::from(f.u8()));
    f.u16();
    let port = f.i32();
    if port != -1 && port != i32::from(who.1) {
        return false;
    }
    if family == 0 {
        return true;
    }
    let b = if family == 2 { four(f.u32()) } else { f.b16() };
    let same = |a: u128, b: u128, bits: u32| len == 0 || (a ^ b) >> (bits - len.min(bits)) == 0;
    let want4 = u128::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    match (family, who.0) {
        (2, IpAddr::V4(a)) => same(u128::from(a.to_bits()), want4, 32),
        // A condition on IPv4 also meets mapped addresses.
        (2, IpAddr::V6(a)) => a.to_ipv4_mapped().is_some_and(|a| same(u128::from(a.to_bits()), want4, 32)),
        (10, IpAddr::V6(a)) => same(a.to_bits(), u128::from_be_bytes(b), 128),
        (10, IpAddr::V4(a)) => v6 && same(a.to_ipv6_mapped().to_bits(), u128::from_be_bytes(b), 128),
        _ => false,
    }
}
