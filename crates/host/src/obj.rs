//! The objects that programs hold descriptors of: one entry per open file description we injected.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;

use bytes::Bytes;
use ferronet_linux::{Received, SockId};

/// Names an object; the generation keeps late events of a closed one away from its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Life of a stream socket as the edge sees it.
pub(crate) enum Phase {
    /// Not connected, not listening.
    Fresh,
    /// connect() runs.
    Connecting {
        /// Bytes of filling in its send buffer, which keep it from being writable; 0 for a blocking connect.
        fill: usize,
    },
    /// Tokens are bytes in the program's receive queue that make the listener readable.
    Listening { tokens: u32 },
    /// Connected, or shut down in part.
    Open,
    /// The connection failed or was reset; our end is closed.
    Dead,
}

/// A TCP socket: bytes flow through the socket pair.
pub(crate) struct Stream {
    pub(crate) phase: Phase,
    /// Read from the program, not yet taken by the stack.
    pub(crate) out: Option<Bytes>,
    /// What `out` holds is the urgent byte.
    pub(crate) out_urgent: bool,
    /// The program wrote with MSG_OOB: look for the mark when reading from it.
    pub(crate) oob_out: bool,
    /// The stack may have an urgent byte.
    pub(crate) oob_in: bool,
    /// Our end is full: wait until the program reads.
    pub(crate) in_blocked: bool,
    /// The stack's end of file was passed on to the program.
    pub(crate) in_eof: bool,
    /// The program asked for SHUT_WR; to be passed on behind the data.
    pub(crate) shut_wr: bool,
    /// The program closed: flush `out` and what is queued, then close.
    pub(crate) closing: bool,
    /// The program's send buffer was made large, because it writes in bulk.
    pub(crate) bulk: bool,
    /// The program's send buffer was made as small as can be for connect(), and not yet large again.
    pub(crate) narrow: bool,
    /// The program closed with unread data: reset the peer.
    pub(crate) abort: bool,
    /// The program's end is shut for writing, so that the kernel says EPIPE and raises SIGPIPE.
    pub(crate) wr_closed: bool,
    /// Everything written before that was read from our end.
    pub(crate) wr_eof: bool,
    /// connect() failed after it had answered EINPROGRESS; `Some(true)`: another connect() was told so.
    pub(crate) refused: Option<bool>,
    /// connect() answered EINPROGRESS; the next one tells how it went (SS_CONNECTING).
    pub(crate) unclaimed: bool,
    /// Why the connection failed, for SO_ERROR.
    pub(crate) error: Option<i32>,
    /// Accepted from the stack, but the accept() call was cancelled: the next accept() gets it.
    pub(crate) stash: VecDeque<(SockId, Vec<u8>)>,
}

/// A message socket (UDP, raw, ping, packet, netlink): every call is served by the supervisor.
#[derive(Default)]
pub(crate) struct Message {
    /// Tokens: datagrams in the program's receive queue that make it readable.
    pub(crate) tokens: u32,
    /// Received, but the call was cancelled: the next one gets it.
    pub(crate) stash: Option<Received>,
    /// Duplicated to a number the filter does not see: bytes flow natively.
    pub(crate) native: bool,
    /// The program's end says POLLERR; our end is the other end of what lies in its queue (`pollerr.rs`).
    pub(crate) raised: bool,
}

/// A file of /proc/sys/net opened for writing.
pub(crate) struct ProcFile {
    /// Path below /proc.
    pub(crate) path: String,
    /// The namespace it was opened in.
    pub(crate) ns: ferronet_core::NsId,
    /// Reading position.
    pub(crate) offset: usize,
}

/// What an object is.
pub(crate) enum Body {
    Stream(SockId, Stream),
    Message(SockId, Message),
    Proc(ProcFile),
    Tun(crate::dev::tun::TunFile),
}

/// One injected object.
pub(crate) struct Object {
    /// Our end of the socket pair; `None` once closed.
    pub(crate) mine: Option<OwnedFd>,
    /// SO_COOKIE of the program's end.
    pub(crate) cookie: u64,
    /// Thread and descriptor number it was last injected at: a hint, checked by cookie before use.
    pub(crate) owner: (u32, u32),
    /// Parked calls, oldest first.
    pub(crate) waiters: Vec<usize>,
    /// epoll interest now registered.
    pub(crate) interest: u32,
    pub(crate) body: Body,
}

impl Object {
    /// The stack's socket, if it is one.
    pub(crate) fn sock(&self) -> Option<SockId> {
        match &self.body {
            Body::Stream(s, _) | Body::Message(s, _) => Some(*s),
            Body::Proc(_) | Body::Tun(_) => None,
        }
    }
}

impl Stream {
    pub(crate) fn new(phase: Phase) -> Self {
        Self {
            phase,
            out: None,
            out_urgent: false,
            oob_out: false,
            oob_in: true,
            in_blocked: false,
            in_eof: false,
            shut_wr: false,
            closing: false,
            bulk: false,
            narrow: false,
            wr_closed: false,
            wr_eof: false,
            refused: None,
            unclaimed: false,
            error: None,
            abort: false,
            stash: VecDeque::new(),
        }
    }
}

struct Slot {
    generation: u32,
    object: Option<Box<Object>>,
}

/// Objects by key, by cookie and by socket.
#[derive(Default)]
pub(crate) struct Objects {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_cookie: HashMap<u64, Key>,
    by_sock: HashMap<SockId, Key>,
    /// Reset or failed streams, oldest first: their close cannot be seen, so their number is bounded.
    dead: VecDeque<Key>,
}

/// How many dead streams are remembered for SO_ERROR.
const DEAD: usize = 4096;

impl Objects {
    pub(crate) fn insert(&mut self, object: Object) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, object: None });
            (self.slots.len() - 1) as u32
        });
        let cookie = object.cookie;
        let sock = object.sock();
        let mut generation = 0;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.generation = (slot.generation + 1) & 0xff_ffff;
            generation = slot.generation;
            slot.object = Some(Box::new(object));
        }
        let key = Key { index, generation };
        self.by_cookie.insert(cookie, key);
        if let Some(s) = sock {
            self.by_sock.insert(s, key);
        }
        key
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Object> {
        let slot = self.slots.get(key.index as usize)?;
        (slot.generation == key.generation).then_some(slot.object.as_deref()).flatten()
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Object> {
        let slot = self.slots.get_mut(key.index as usize)?;
        (slot.generation == key.generation).then_some(slot.object.as_deref_mut()).flatten()
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Box<Object>> {
        self.get(key)?;
        let object = self.slots.get_mut(key.index as usize)?.object.take()?;
        self.free.push(key.index);
        if self.by_cookie.get(&object.cookie) == Some(&key) {
            self.by_cookie.remove(&object.cookie);
        }
        if let Some(s) = object.sock() {
            self.by_sock.remove(&s);
        }
        Some(object)
    }

    pub(crate) fn by_cookie(&self, cookie: u64) -> Option<Key> {
        self.by_cookie.get(&cookie).copied()
    }

    pub(crate) fn by_sock(&self, sock: SockId) -> Option<Key> {
        self.by_sock.get(&sock).copied()
    }

    /// The connected streams.
    pub(crate) fn open_streams(&self) -> impl Iterator<Item = (SockId, &Object, &Stream)> {
        self.slots.iter().filter_map(|s| s.object.as_deref()).filter_map(|o| match &o.body {
            Body::Stream(sock, st) if matches!(st.phase, Phase::Open) => Some((*sock, o, st)),
            Body::Stream(..) | Body::Message(..) | Body::Proc(_) | Body::Tun(_) => None,
        })
    }

    /// The stream at `key`, with its socket and our end.
    pub(crate) fn stream(&mut self, key: Key) -> Option<(SockId, &mut Stream, &mut Option<OwnedFd>)> {
        let o = self.get_mut(key)?;
        match &mut o.body {
            Body::Stream(s, st) => Some((*s, st, &mut o.mine)),
            _ => None,
        }
    }

    /// The message socket at `key`.
    pub(crate) fn message(&mut self, key: Key) -> Option<(SockId, &mut Message, &Option<OwnedFd>)> {
        let o = self.get_mut(key)?;
        match &mut o.body {
            Body::Message(s, m) => Some((*s, m, &o.mine)),
            _ => None,
        }
    }

    /// The object's end of the pair is another one now.
    pub(crate) fn replace_end(&mut self, key: Key, mine: OwnedFd, cookie: u64) {
        self.dead.retain(|k| *k != key);
        let Some(o) = self.get_mut(key) else { return };
        o.mine = Some(mine);
        let old = std::mem::replace(&mut o.cookie, cookie);
        self.by_cookie.remove(&old);
        self.by_cookie.insert(cookie, key);
    }

    /// Notes a dead stream; returns one that is forgotten for it when there are too many.
    pub(crate) fn bury(&mut self, key: Key) -> Option<Key> {
        self.dead.push_back(key);
        (self.dead.len() > DEAD).then(|| self.dead.pop_front()).flatten()
    }
}
