//! `--pcapng FILE`: every packet of a session, as packet sockets in each namespace see it.

use crate::pcapng::Writer;
use crate::serve::Names;
use ferronet_core::{IfIndex, NsId};
use ferronet_host::Session;
use ferronet_linux::kernel::{af, sock_type};
use ferronet_linux::{Caller, Kernel, NsRef, RecvReq, SockId};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// ETH_P_ALL in network byte order, as packet(7) wants it.
const ETH_P_ALL: i32 = 0x0003_u16.to_be() as i32;
const SOL_SOCKET: i32 = 1;
const SO_RCVBUFFORCE: i32 = 33;
const MSG_DONTWAIT: i32 = 0x40;
/// Bytes a packet socket may hold between two turns.
const BUFFER: i32 = 8 << 20;

/// Captures until the session ends.
pub(crate) fn install(session: &mut Session, path: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot write the capture {}: {e}", path.display());
    let file = Writer::new(BufWriter::new(File::create(path).map_err(failed)?)).map_err(failed)?;
    let mut capture = Capture {
        file: Some(file),
        names: Names::new(session),
        known: BTreeMap::new(),
        sockets: BTreeMap::new(),
    };
    capture.open_sockets(session.kernel());
    let shown = path.display().to_string();
    session.after_turn(Box::new(move |kernel| {
        if let Err(e) = capture.turn(kernel) {
            eprintln!("ferronet: {shown}: {e}; the capture ends here");
            capture.file = None;
        }
    }));
    Ok(())
}

struct Capture {
    file: Option<Writer<BufWriter<File>>>,
    names: Names,
    known: BTreeMap<NsId, String>,
    sockets: BTreeMap<NsId, SockId>,
}

impl Capture {
    /// A packet socket in each namespace that has none yet.
    fn open_sockets(&mut self, kernel: &mut Kernel) {
        let new: Vec<NsId> =
            kernel.world.iter().map(|n| n.id).filter(|id| !self.sockets.contains_key(id)).collect();
        if new.is_empty() {
            return;
        }
        self.known = self.names.read(kernel);
        for ns in new {
            let mut none = |_: NsRef| None;
            let mut caller =
                Caller { ns, pid: 0, uid: 0, caps: &ferronet_linux::Caps::all, resolve_ns: &mut none };
            if let Ok(s) = kernel.socket(&mut caller, af::PACKET, sock_type::RAW, ETH_P_ALL) {
                let _ =
                    kernel.setsockopt(&mut caller, s, (SOL_SOCKET, SO_RCVBUFFORCE), &BUFFER.to_ne_bytes());
                self.sockets.insert(ns, s);
            }
        }
    }

    fn turn(&mut self, kernel: &mut Kernel) -> std::io::Result<()> {
        self.open_sockets(kernel);
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut wrote = false;
        self.sockets.retain(|id, _| kernel.world.ns(*id).is_some());
        for (&id, &socket) in &self.sockets {
            let ns = self.known.get(&id).map_or("?", String::as_str);
            while let Ok(p) =
                kernel.recvmsg(socket, RecvReq { len: 256 << 10, control_len: 0, flags: MSG_DONTWAIT })
            {
                // struct sockaddr_ll: family, protocol, interface index.
                let index = p.name.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
                let device = kernel
                    .world
                    .ns(id)
                    .and_then(|n| n.devs.get(IfIndex(index)))
                    .map_or("?", |d| d.name.as_str());
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
                file.packet(&format!("{ns}:{device}"), now, &p.data, p.len as u32, None)?;
                wrote = true;
            }
        }
        // Flushed after each turn: the file is complete even when the session is killed.
        if wrote { file.flush() } else { Ok(()) }
    }
}
