//! `/proc/net` and `/proc/sys/net`, rendered.

use ferronet_core::{Errno, NsId};

use crate::kernel::{Caller, Kernel};

impl Kernel {
    /// The text of a file below `/proc` (`net/tcp`, `sys/net/ipv4/ip_forward`); `None`: not ours.
    pub fn proc_read(&mut self, _c: &mut Caller<'_>, _path: &str) -> Option<Vec<u8>> {
        None
    }
    /// The entries of a directory: name, is it a directory. `None`: not ours.
    pub fn proc_list(&mut self, _ns: NsId, _path: &str) -> Option<Vec<(String, bool)>> {
        None
    }
    /// A write to a file below `/proc/sys/net`.
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL`, `EACCES`.
    pub fn proc_write(&mut self, _c: &mut Caller<'_>, _path: &str, _data: &[u8]) -> Result<usize, Errno> {
        Err(Errno::ENOENT)
    }
}
