//! `/proc/net/{sockstat,sockstat6}` (`sockstat_seq_show`, `sockstat6_seq_show`).

use ferronet_stack::Namespace;

use crate::kernel::Kernel;

/// Sockets by protocol. Memory is in pages of 4 KiB.
pub(super) fn sockstat(k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let used = k.files.values().filter(|f| f.ns == ns.id).count();
    format!(
        "sockets: used {used}\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 0 mem 0\nUDPLITE: inuse 0\n\
         RAW: inuse 0\nFRAG: inuse 0 memory 0\n"
    )
    .into_bytes()
}

/// Likewise for IPv6.
pub(super) fn sockstat6(_k: &Kernel, _ns: &Namespace) -> Vec<u8> {
    "TCP6: inuse 0\nUDP6: inuse 0\nUDPLITE6: inuse 0\nRAW6: inuse 0\nFRAG6: inuse 0 memory 0\n"
        .as_bytes()
        .to_vec()
}
