//! Socket addresses in the memory of programs.

use crate::mem;

/// sizeof(struct sockaddr_storage).
const MAX: usize = 128;

/// The length of an address argument; EINVAL for an impossible one (move_addr_to_kernel).
pub(crate) fn check(len: u64) -> Result<usize, i32> {
    // The length is an int in the ABI.
    let len = usize::try_from(len as i32).map_err(|_| libc::EINVAL)?;
    if len > MAX { Err(libc::EINVAL) } else { Ok(len) }
}

/// Reads an address argument.
pub(crate) fn get(pid: u32, ptr: u64, len: u64) -> Result<Vec<u8>, i32> {
    mem::read_vec(pid, ptr, check(len)?)
}

/// Writes an address back with its full length, cut to the room the program gave (move_addr_to_user).
pub(crate) fn put(pid: u32, name: &[u8], ptr: u64, len_ptr: u64) -> Result<(), i32> {
    let room = usize::try_from(mem::read_val::<i32>(pid, len_ptr)?).map_err(|_| libc::EINVAL)?;
    let name_cut = name.get(..room.min(name.len())).unwrap_or(name);
    mem::write_two(pid, (ptr, name_cut), (len_ptr, &(name.len() as i32).to_ne_bytes()))
}
