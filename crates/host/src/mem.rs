//! Reading and writing the memory of supervised programs (process_vm_readv, process_vm_writev).

use std::io;
use std::mem::MaybeUninit;

use crate::os::cvt;

/// Error number for a bad program address.
pub(crate) const EFAULT: i32 = libc::EFAULT;

/// The page size; reads of unknown length must not cross into an unmapped page.
const PAGE: u64 = 4096;

fn read_raw(pid: u32, addr: u64, dst: *mut u8, len: usize) -> io::Result<usize> {
    let local = libc::iovec { iov_base: dst.cast(), iov_len: len };
    let remote = libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: len };
    // SAFETY: callers pass a destination valid for `len` bytes; the remote address is checked by the kernel.
    cvt(unsafe { libc::process_vm_readv(pid as libc::pid_t, &local, 1, &remote, 1, 0) } as libc::c_long)
        .map(|n| n as usize)
}

/// Reads `len` bytes into a new vector.
pub(crate) fn read_vec(pid: u32, addr: u64, len: usize) -> Result<Vec<u8>, i32> {
    let mut v = Vec::new();
    append(pid, addr, len, &mut v)?;
    Ok(v)
}

/// Appends `len` bytes of the program to `v` without zeroing first.
pub(crate) fn append(pid: u32, addr: u64, len: usize, v: &mut Vec<u8>) -> Result<(), i32> {
    if len == 0 {
        return Ok(());
    }
    v.reserve(len);
    let spare: &mut [MaybeUninit<u8>] = v.spare_capacity_mut();
    match read_raw(pid, addr, spare.as_mut_ptr().cast(), len) {
        Ok(n) if n == len => {
            // SAFETY: `reserve` made room for `len` bytes and the kernel wrote all of them.
            unsafe { v.set_len(v.len() + len) };
            Ok(())
        }
        _ => Err(EFAULT),
    }
}

/// Reads two areas (address, length) into one vector with one call.
pub(crate) fn read_two(pid: u32, a: (u64, usize), b: (u64, usize)) -> Result<Vec<u8>, i32> {
    let total = a.1 + b.1;
    let mut v: Vec<u8> = Vec::with_capacity(total);
    if total == 0 {
        return Ok(v);
    }
    let remote = [a, b].map(|(at, len)| libc::iovec { iov_base: at as *mut libc::c_void, iov_len: len });
    let local = libc::iovec { iov_base: v.as_mut_ptr().cast(), iov_len: total };
    // SAFETY: `v` has room for `total` bytes; remote addresses are checked by the kernel.
    let n = unsafe { libc::process_vm_readv(pid as libc::pid_t, &local, 1, remote.as_ptr(), 2, 0) };
    if n != total as isize {
        return Err(EFAULT);
    }
    // SAFETY: the kernel wrote all `total` bytes.
    unsafe { v.set_len(total) };
    Ok(v)
}

/// A plain C structure made only of integers: any bytes are a valid value.
///
/// # Safety
/// Implementors must be `repr(C)`, contain only integers and raw pointers, and have no padding that matters.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for i32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: integers only.
unsafe impl Plain for libc::iovec {}
// SAFETY: integers and pointers only.
unsafe impl Plain for libc::msghdr {}
// SAFETY: integers and pointers only.
unsafe impl Plain for libc::mmsghdr {}
// SAFETY: integers only.
unsafe impl Plain for libc::timespec {}
// SAFETY: integers only.
unsafe impl Plain for libc::open_how {}
// SAFETY: integers only.
unsafe impl Plain for libc::stat {}

/// Reads one plain structure.
pub(crate) fn read_val<T: Plain>(pid: u32, addr: u64) -> Result<T, i32> {
    let mut v = MaybeUninit::<T>::uninit();
    match read_raw(pid, addr, v.as_mut_ptr().cast(), size_of::<T>()) {
        // SAFETY: all bytes were written and every bit pattern is a `T`.
        Ok(n) if n == size_of::<T>() => Ok(unsafe { v.assume_init() }),
        _ => Err(EFAULT),
    }
}

/// Reads `n` plain structures that follow each other.
pub(crate) fn read_array<T: Plain>(pid: u32, addr: u64, n: usize) -> Result<Vec<T>, i32> {
    let mut v: Vec<T> = Vec::with_capacity(n);
    let bytes = n * size_of::<T>();
    if bytes == 0 {
        return Ok(v);
    }
    match read_raw(pid, addr, v.as_mut_ptr().cast(), bytes) {
        Ok(got) if got == bytes => {
            // SAFETY: capacity is `n`, all bytes were written, every bit pattern is a `T`.
            unsafe { v.set_len(n) };
            Ok(v)
        }
        _ => Err(EFAULT),
    }
}

/// Writes all of `data` to address `addr`; EFAULT otherwise.
pub(crate) fn write(pid: u32, addr: u64, data: &[u8]) -> Result<(), i32> {
    if data.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let remote = libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: data.len() };
    // SAFETY: the local vector describes `data`, which is only read; the remote address is checked by the kernel.
    let n = unsafe { libc::process_vm_writev(pid as libc::pid_t, &local, 1, &remote, 1, 0) };
    if n == data.len() as isize { Ok(()) } else { Err(EFAULT) }
}

/// Writes two areas (address, data) with one call.
pub(crate) fn write_two(pid: u32, a: (u64, &[u8]), b: (u64, &[u8])) -> Result<(), i32> {
    let part = |d: &[u8]| libc::iovec { iov_base: d.as_ptr().cast_mut().cast(), iov_len: d.len() };
    let local = [part(a.1), part(b.1)];
    let remote = [a, b].map(|(at, d)| libc::iovec { iov_base: at as *mut libc::c_void, iov_len: d.len() });
    // SAFETY: the local vectors describe slices, which are only read; remote addresses are checked by the kernel.
    let n = unsafe { libc::process_vm_writev(pid as libc::pid_t, local.as_ptr(), 2, remote.as_ptr(), 2, 0) };
    if n == (a.1.len() + b.1.len()) as isize { Ok(()) } else { Err(EFAULT) }
}

/// Writes one plain structure.
pub(crate) fn write_val<T: Plain>(pid: u32, addr: u64, v: &T) -> Result<(), i32> {
    // SAFETY: `T` is plain data; reading its bytes is fine.
    let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(v).cast::<u8>(), size_of::<T>()) };
    write(pid, addr, bytes)
}

/// Scatters `data` over the program's vectors in one call; returns the number of bytes written.
pub(crate) fn scatter(pid: u32, iov: &[libc::iovec], data: &[u8]) -> Result<usize, i32> {
    let mut left = data.len();
    let mut remote = Vec::with_capacity(iov.len().min(1024));
    for v in iov {
        let n = v.iov_len.min(left);
        if n > 0 {
            remote.push(libc::iovec { iov_base: v.iov_base, iov_len: n });
            left -= n;
        }
        if left == 0 || remote.len() == 1024 {
            break;
        }
    }
    let total: usize = remote.iter().map(|v| v.iov_len).sum();
    if total == 0 {
        return Ok(0);
    }
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: total };
    // SAFETY: `local` covers at most `data`; remote addresses are checked by the kernel.
    let n = unsafe {
        libc::process_vm_writev(
            pid as libc::pid_t,
            &local,
            1,
            remote.as_ptr(),
            remote.len() as libc::c_ulong,
            0,
        )
    };
    if n == total as isize { Ok(total) } else { Err(EFAULT) }
}

/// Reads a NUL-terminated string of at most `max` bytes; ENAMETOOLONG when it does not end.
pub(crate) fn read_cstr(pid: u32, addr: u64, max: usize) -> Result<Vec<u8>, i32> {
    let mut out = Vec::new();
    let mut at = addr;
    while out.len() < max {
        // Never cross a page in one read: the next one may be unmapped.
        let room = (PAGE - at % PAGE).min(256).min((max - out.len()) as u64) as usize;
        let old = out.len();
        append(pid, at, room, &mut out)?;
        if let Some(end) = out.get(old..).and_then(|t| t.iter().position(|b| *b == 0)) {
            out.truncate(old + end);
            return Ok(out);
        }
        at += room as u64;
    }
    Err(libc::ENAMETOOLONG)
}
