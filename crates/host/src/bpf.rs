//! A tiny assembler for classic BPF, as seccomp(2) wants it (linux/filter.h): forward jumps by label only.

use libc::sock_filter;

/// Loads a 32-bit word of `seccomp_data` (BPF_LD | BPF_W | BPF_ABS).
const LD: u16 = 0x20;
/// BPF_JMP | BPF_JEQ | BPF_K.
const JEQ: u16 = 0x15;
/// BPF_JMP | BPF_JGE | BPF_K.
const JGE: u16 = 0x35;
/// BPF_JMP | BPF_JSET | BPF_K.
const JSET: u16 = 0x45;
/// BPF_ALU | BPF_AND | BPF_K.
const AND: u16 = 0x54;
/// BPF_RET | BPF_K.
const RET: u16 = 0x06;
/// BPF_JMP | BPF_JA.
const JA: u16 = 0x05;

/// Offset of `nr` in seccomp_data.
pub(crate) const NR: u32 = 0;
/// Offset of `arch`.
pub(crate) const ARCH: u32 = 4;

/// Offset of the low half of argument `n`.
pub(crate) const fn arg_lo(n: u32) -> u32 {
    16 + 8 * n + if cfg!(target_endian = "big") { 4 } else { 0 }
}

/// Offset of the high half of argument `n`.
pub(crate) const fn arg_hi(n: u32) -> u32 {
    16 + 8 * n + if cfg!(target_endian = "big") { 0 } else { 4 }
}

/// A place in the program that jumps may name before it is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

enum Insn {
    Plain(sock_filter),
    /// Conditional jump: true goes to the label, false falls through.
    Cond(u16, u32, Label),
    Place(Label),
}

/// Collects instructions; `finish` resolves labels.
#[derive(Default)]
pub(crate) struct Asm {
    insns: Vec<Insn>,
    labels: usize,
}

impl Asm {
    /// A fresh label.
    pub(crate) fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels)
    }
    /// Puts `l` here.
    pub(crate) fn place(&mut self, l: Label) {
        self.insns.push(Insn::Place(l));
    }
    /// accumulator = word at `offset` of seccomp_data.
    pub(crate) fn load(&mut self, offset: u32) {
        self.insns.push(Insn::Plain(sock_filter { code: LD, jt: 0, jf: 0, k: offset }));
    }
    /// accumulator &= `k`.
    pub(crate) fn and(&mut self, k: u32) {
        self.insns.push(Insn::Plain(sock_filter { code: AND, jt: 0, jf: 0, k }));
    }
    /// Returns the seccomp action.
    pub(crate) fn ret(&mut self, action: u32) {
        self.insns.push(Insn::Plain(sock_filter { code: RET, jt: 0, jf: 0, k: action }));
    }
    /// Jumps when the accumulator equals `k`.
    pub(crate) fn jeq(&mut self, k: u32, l: Label) {
        self.insns.push(Insn::Cond(JEQ, k, l));
    }
    /// Jumps when the accumulator is at least `k`, unsigned.
    pub(crate) fn jge(&mut self, k: u32, l: Label) {
        self.insns.push(Insn::Cond(JGE, k, l));
    }
    /// Jumps when any bit of `k` is set.
    pub(crate) fn jset(&mut self, k: u32, l: Label) {
        self.insns.push(Insn::Cond(JSET, k, l));
    }
    /// The program. Conditional jumps reach 255 instructions, so each becomes "if not, skip one; ja label".
    pub(crate) fn finish(self) -> Vec<sock_filter> {
        let size = |i: &Insn| match i {
            Insn::Plain(_) => 1,
            Insn::Cond(..) => 2,
            Insn::Place(_) => 0,
        };
        let mut at = vec![0usize; self.labels + 1];
        let mut pc = 0;
        for i in &self.insns {
            if let Insn::Place(l) = i
                && let Some(slot) = at.get_mut(l.0)
            {
                *slot = pc;
            }
            pc += size(i);
        }
        let mut out: Vec<sock_filter> = Vec::with_capacity(pc);
        for i in self.insns {
            match i {
                Insn::Plain(f) => out.push(f),
                Insn::Place(_) => {}
                Insn::Cond(code, k, l) => {
                    out.push(sock_filter { code, jt: 0, jf: 1, k });
                    out.push(jump(&at, l, out.len()));
                }
            }
        }
        out
    }
}

fn jump(at: &[usize], l: Label, pc: usize) -> sock_filter {
    let target = at.get(l.0).copied().unwrap_or(0);
    debug_assert!(target > pc, "classic BPF jumps forward only");
    sock_filter { code: JA, jt: 0, jf: 0, k: (target - pc - 1) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_resolve_to_relative_distances() {
        let mut a = Asm::default();
        let end = a.label();
        a.load(NR);
        a.jeq(7, end);
        a.ret(1);
        a.place(end);
        a.ret(2);
        let p = a.finish();
        assert_eq!(p.len(), 5);
        assert_eq!((p[1].jt, p[1].jf), (0, 1));
        assert_eq!(p[2].k, 1); // ja over `ret 1`
        assert_eq!(p[4].k, 2);
    }
}
