//! struct msghdr of programs: name, vectors, control.

use crate::mem;

/// UIO_MAXIOV.
const MAX_IOV: usize = 1024;
/// Largest message that is copied: netlink batches may be large, nothing sensible is larger.
pub(crate) const MAX_MESSAGE: usize = 32 << 20;
/// Largest control buffer (net.core.optmem_max allows 20480 by default, receivers may offer more).
pub(crate) const MAX_CONTROL: usize = 64 << 10;

/// A msghdr read from the program.
pub(crate) struct Header {
    /// Address of the structure.
    pub(crate) at: u64,
    /// The structure.
    pub(crate) m: libc::msghdr,
    /// Its vectors.
    pub(crate) iov: Vec<libc::iovec>,
    /// Bytes of all vectors together.
    pub(crate) total: usize,
}

/// Reads a vector array; EMSGSIZE and EINVAL as import_iovec (no length is negative, nor their sum).
pub(crate) fn iovecs(tid: u32, ptr: u64, n: usize) -> Result<(Vec<libc::iovec>, usize), i32> {
    if n > MAX_IOV {
        return Err(libc::EMSGSIZE);
    }
    let iov: Vec<libc::iovec> = mem::read_array(tid, ptr, n)?;
    let total = iov.iter().try_fold(0usize, |t, v| t.checked_add(v.iov_len));
    total.filter(|t| isize::try_from(*t).is_ok()).map(|t| (iov, t)).ok_or(libc::EINVAL)
}

/// Reads the msghdr at `at`.
pub(crate) fn header(tid: u32, at: u64) -> Result<Header, i32> {
    let m: libc::msghdr = mem::read_val(tid, at)?;
    let (iov, total) = iovecs(tid, m.msg_iov as u64, m.msg_iovlen)?;
    Ok(Header { at, m, iov, total })
}

/// Reads the payload the vectors describe, its first `total` bytes.
pub(crate) fn gather(tid: u32, iov: &[libc::iovec], total: usize) -> Result<Vec<u8>, i32> {
    if total > MAX_MESSAGE {
        return Err(libc::EMSGSIZE);
    }
    let mut data = Vec::with_capacity(total);
    for v in iov {
        mem::append(tid, v.iov_base as u64, v.iov_len.min(total - data.len()), &mut data)?;
    }
    Ok(data)
}

impl Header {
    /// Writes what was received: payload, name, control, lengths and flags.
    pub(crate) fn put(&self, tid: u32, r: &ferronet_linux::Received) -> Result<(), i32> {
        mem::scatter(tid, &self.iov, &r.data)?;
        let mut m = self.m;
        if !m.msg_name.is_null() {
            let room = (m.msg_namelen as usize).min(r.name.len());
            mem::write(tid, m.msg_name as u64, r.name.get(..room).unwrap_or_default())?;
            m.msg_namelen = r.name.len() as libc::socklen_t;
        }
        let control = r.control.get(..r.control.len().min(m.msg_controllen)).unwrap_or_default();
        mem::write(tid, m.msg_control as u64, control)?;
        m.msg_controllen = control.len() as _;
        m.msg_flags = r.flags;
        mem::write_val(tid, self.at, &m)
    }
}
