//! The supervisor: one thread, one epoll, one stack; serves every program of the session.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ferronet_core::Instant;
use ferronet_core::{Errno, NsId};
use ferronet_linux::{Caller, Caps, Kernel, NsRef, Ready, SockId};

use crate::awake::Awake;
use crate::error::{HostError, Result};
use crate::nswatch::NsWatch;
use crate::obj::{Body, Key, Object, Objects};
use crate::os;
use crate::poller::{Poller, Token, bits};
use crate::sandbox::Sandbox;
use crate::seccomp::{self, Notif, Slot};
use crate::task::Tasks;
use crate::{join, sys};

/// From this number of parked calls on those are looked for that are no more.
const SWEEP: usize = 64;
/// How long it is believed that a descriptor is what it was, nanoseconds: thread ids and numbers are used again.
const BELIEVED: u64 = 100_000_000;

/// What a handler wants done with a call.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Return this value.
    Ret(i64),
    /// Fail with this errno.
    Err(i32),
    /// Not ours: let the kernel run the call.
    Continue,
    /// Already answered (a descriptor was injected), or cancelled.
    Done,
    /// Would block: try again when the object has an event, at the latest at this CLOCK_MONOTONIC nanosecond.
    Park(Key, Option<u64>),
}

impl From<i32> for Answer {
    fn from(errno: i32) -> Self {
        Self::Err(errno)
    }
}

impl From<Errno> for Answer {
    fn from(e: Errno) -> Self {
        Self::Err(i32::from(e.0))
    }
}

/// One call being served.
pub(crate) struct Call {
    /// The call itself.
    pub(crate) n: Notif,
    /// Index of the listener it came from.
    pub(crate) listener: u32,
    /// Set when the call was parked before: its object.
    pub(crate) parked: Option<Key>,
    /// The deadline fixed when it was first parked.
    pub(crate) deadline: Option<u64>,
    /// The deadline has passed: answer now.
    pub(crate) expired: bool,
}

/// A parked call.
pub(crate) struct Wait {
    n: Notif,
    listener: u32,
    key: Key,
    deadline: Option<u64>,
}

/// The supervisor's state. The stack is `kernel`; everything else belongs to the edge.
pub(crate) struct Supervisor {
    pub(crate) kernel: Kernel,
    pub(crate) poller: Poller,
    pub(crate) tasks: Tasks,
    pub(crate) objects: Objects,
    pub(crate) watch: NsWatch,
    pub(crate) listeners: Vec<Option<OwnedFd>>,
    waits: Vec<Option<Wait>>,
    deadlines: BTreeSet<(u64, usize)>,
    /// Next descriptor number to try per thread id.
    next_fd: HashMap<u32, u32>,
    /// Message sockets by thread and (high) descriptor number, as they were identified last, and when that was.
    known_fds: HashMap<(u32, i32), (Key, u64)>,
    /// The stack has more to do, or was touched from outside: do not wait.
    pub(crate) unsettled: bool,
    /// CLOCK_MONOTONIC, nanoseconds, of this turn.
    pub(crate) now_ns: u64,
    /// Our side of the sandbox's first network namespace.
    pub(crate) first_ns: NsId,
    /// The directory of the trees that stand for /proc/sys/net (`sys/tree.rs`).
    pub(crate) tree: OwnedFd,
    /// Listeners whose connections an accept() gave back: others may want them.
    pub(crate) given_back: Vec<Key>,
    awake: Awake,
    events: Vec<(Token, u32)>,
    ready: Vec<(SockId, Ready)>,
    pub(crate) bufs: crate::bufs::Bufs,
    /// Receive rings of packet sockets.
    pub(crate) rings: crate::ring::Rings,
    /// Tun devices of programs.
    pub(crate) tuns: crate::dev::tun::Tuns,
}

impl Supervisor {
    /// `first` is the inode of the sandbox's first network namespace.
    pub(crate) fn new(mut kernel: Kernel, sandbox: &mut Sandbox, first: u64) -> Result<Self> {
        let tree = sandbox.directory(crate::mounts::TREE_DIR)?;
        let first_ns = kernel.ns_create(first).map_err(|e| HostError::Stack {
            what: "making the first namespace".into(),
            source: std::io::Error::from_raw_os_error(e.0.into()),
        })?;
        let poller = Poller::new().map_err(HostError::step("epoll"))?;
        let watch = NsWatch::new(sandbox.take_nsid_socket());
        if let Some(fd) = watch.fd() {
            poller.add(fd, Token::Namespaces, bits::IN).map_err(HostError::step("epoll"))?;
        }
        let mut tasks = Tasks::default();
        tasks.set_user_map(sandbox.init_pid());
        Ok(Self {
            kernel,
            poller,
            tasks,
            objects: Objects::default(),
            watch,
            listeners: Vec::new(),
            waits: Vec::new(),
            deadlines: BTreeSet::new(),
            next_fd: HashMap::new(),
            known_fds: HashMap::new(),
            unsettled: true,
            now_ns: os::monotonic_ns(),
            first_ns,
            tree,
            given_back: Vec::new(),
            awake: Awake::new(),
            events: Vec::new(),
            ready: Vec::new(),
            bufs: crate::bufs::Bufs::default(),
            rings: crate::ring::Rings::default(),
            tuns: crate::dev::tun::Tuns::default(),
        })
    }

    /// Takes over the listener of a newly started program.
    pub(crate) fn add_listener(&mut self, fd: OwnedFd) -> Result<()> {
        seccomp::set_sync_wake(fd.as_fd());
        let free = self.listeners.iter().position(Option::is_none);
        let index = free.unwrap_or(self.listeners.len());
        self.poller.add_listener(fd.as_fd(), Token::Listener(index as u32));
        match self.listeners.get_mut(index) {
            Some(slot) => *slot = Some(fd),
            None => self.listeners.push(Some(fd)),
        }
        Ok(())
    }

    pub(crate) fn listener(&self, index: u32) -> Option<BorrowedFd<'_>> {
        self.listeners.get(index as usize)?.as_ref().map(AsFd::as_fd)
    }

    /// Moves the stack's clock to now.
    pub(crate) fn tick(&mut self) {
        self.now_ns = os::monotonic_ns();
        self.kernel.set_now(Instant(self.now_ns));
    }

    /// Waits for events up to `max_wait_ns` and serves what concerns programs; returns events for the session.
    pub(crate) fn turn(&mut self, max_wait_ns: Option<u64>, out: &mut Vec<(Token, u32)>) -> Result<()> {
        if self.unsettled {
            self.tick();
            self.settle();
        }
        let wait = self.wait_time(max_wait_ns);
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let before = os::monotonic_ns();
        self.poller.wait(wait, &mut events).map_err(HostError::step("epoll_wait"))?;
        self.tick();
        self.awake.turned(before, self.now_ns);
        // A program that gave frames back and then calls expects poll(2) to know.
        self.rings_given_back();
        // Data before calls, as the poller sorts them: what a program wrote happened before the call it makes now.
        for (token, ev) in &events {
            match *token {
                Token::Object(index, generation) => self.object_event(Key { index, generation }, *ev),
                Token::Namespaces => self.namespaces_ended(),
                Token::Listener(i) => self.listener_event(i, *ev),
                other => out.push((other, *ev)),
            }
        }
        self.events = events;
        self.expire();
        for key in std::mem::take(&mut self.given_back) {
            self.wake(key, true);
        }
        self.settle();
        self.ring_timers();
        Ok(())
    }

    fn wait_time(&mut self, max: Option<u64>) -> Option<u64> {
        if self.unsettled {
            return Some(0);
        }
        let stack = self.kernel.next_timeout().map(|t| t.0);
        let call = self.deadlines.first().map(|d| d.0);
        let at = stack.into_iter().chain(call).chain(self.ring_deadline()).min();
        let now = os::monotonic_ns();
        match (at.map(|t| t.saturating_sub(now)), max) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Runs the stack until it is quiet and passes its events on.
    pub(crate) fn settle(&mut self) {
        for _ in 0..64 {
            let more = self.kernel.run(256);
            let mut ready = std::mem::take(&mut self.ready);
            ready.clear();
            self.kernel.take_events(&mut ready);
            let quiet = ready.is_empty() && !more;
            for (sock, r) in &ready {
                self.sock_event(*sock, *r);
            }
            self.ready = ready;
            if quiet {
                self.unsettled = false;
                return;
            }
        }
        // Others get their chance, then we go on without waiting.
        self.unsettled = true;
    }

    fn sock_event(&mut self, sock: SockId, r: Ready) {
        let Some(key) = self.objects.by_sock(sock) else { return };
        match self.objects.get(key).map(|o| &o.body) {
            Some(Body::Stream(..)) => self.stream_ready(key, r),
            Some(Body::Message(..)) => self.message_ready(key, r),
            _ => {}
        }
    }

    fn object_event(&mut self, key: Key, ev: u32) {
        match self.objects.get(key).map(|o| &o.body) {
            Some(Body::Stream(..)) => self.stream_event(key, ev),
            Some(Body::Message(..)) => self.message_event(key, ev),
            Some(Body::Proc(_)) => self.proc_event(key, ev),
            Some(Body::Tun(_)) => self.tun_event(key, ev),
            None => {}
        }
    }

    fn listener_event(&mut self, index: u32, ev: u32) {
        if ev & bits::IN != 0 {
            let got = match self.listener(index) {
                Some(l) => seccomp::recv(l),
                None => return,
            };
            match got {
                Ok(Some(n)) => {
                    self.awake.called(n.tid);
                    self.serve(Call { n, listener: index, parked: None, deadline: None, expired: false })
                }
                Ok(None) => {}
                Err(e) => tracing::error!("seccomp notification: {e}"),
            }
        } else if ev & (bits::HUP | bits::ERR) != 0
            && let Some(Some(fd)) = self.listeners.get_mut(index as usize).map(Option::take)
        {
            // Nobody uses the filter any more.
            self.poller.remove_listener(Token::Listener(index));
            drop(fd);
        }
    }

    /// Serves one call to its end or parks it.
    pub(crate) fn serve(&mut self, call: Call) {
        let answer = sys::dispatch(self, &call);
        let Some(listener) = self.listener(call.listener) else { return };
        match answer {
            Answer::Ret(v) => {
                seccomp::answer(listener, call.n.id, v);
            }
            Answer::Err(e) => {
                seccomp::answer(listener, call.n.id, -i64::from(e));
            }
            Answer::Continue => {
                seccomp::resume(listener, call.n.id);
            }
            Answer::Done => {}
            Answer::Park(key, deadline) => self.park(call, key, deadline),
        }
    }

    fn park(&mut self, call: Call, key: Key, deadline: Option<u64>) {
        let deadline = call.deadline.or(deadline);
        // Drop calls of the same thread that were cancelled: a thread waits in one call only.
        let stale: Vec<usize> = self
            .objects
            .get(key)
            .map(|o| o.waiters.iter().copied().filter(|w| self.wait_is_of(*w, call.n.tid)).collect())
            .unwrap_or_default();
        for w in stale {
            self.unpark(w);
        }
        if self.waits.len() >= SWEEP && self.waits.len().is_power_of_two() {
            self.sweep_waits();
        }
        let slot = self.waits.iter().position(Option::is_none).unwrap_or_else(|| {
            self.waits.push(None);
            self.waits.len() - 1
        });
        let Some(o) = self.objects.get_mut(key) else {
            if let Some(l) = self.listener(call.listener) {
                seccomp::answer(l, call.n.id, -i64::from(libc::EBADF));
            }
            return;
        };
        // A retried call keeps its place at the head of the line.
        if call.parked.is_some() {
            o.waiters.insert(0, slot)
        } else {
            o.waiters.push(slot)
        }
        if let Some(at) = deadline {
            self.deadlines.insert((at, slot));
        }
        if let Some(s) = self.waits.get_mut(slot) {
            *s = Some(Wait { n: call.n, listener: call.listener, key, deadline });
        }
    }

    /// Nobody tells us that a parked call was cancelled (its thread killed, say). Before the list of them gets longer, those
    /// go; it is twice as long when that happens next.
    fn sweep_waits(&mut self) {
        let gone = |w: &Wait| !self.listener(w.listener).is_some_and(|l| seccomp::valid(l, w.n.id));
        let dead: Vec<usize> = self
            .waits
            .iter()
            .enumerate()
            .filter(|(_, w)| w.as_ref().is_some_and(gone))
            .map(|(i, _)| i)
            .collect();
        for slot in dead {
            self.unpark(slot);
        }
    }

    fn wait_is_of(&self, wait: usize, tid: u32) -> bool {
        self.waits.get(wait).and_then(Option::as_ref).is_some_and(|w| w.n.tid == tid)
    }

    /// Does a call that was not cancelled meanwhile wait for this object?
    pub(crate) fn is_waited_for(&self, key: Key) -> bool {
        let alive = |slot: &usize| {
            let wait = self.waits.get(*slot).and_then(Option::as_ref);
            wait.is_some_and(|w| self.listener(w.listener).is_some_and(|l| seccomp::valid(l, w.n.id)))
        };
        self.objects.get(key).is_some_and(|o| o.waiters.iter().any(alive))
    }

    /// Takes a parked call out of every list.
    fn unpark(&mut self, slot: usize) -> Option<Wait> {
        let wait = self.waits.get_mut(slot)?.take()?;
        if let Some(at) = wait.deadline {
            self.deadlines.remove(&(at, slot));
        }
        if let Some(o) = self.objects.get_mut(wait.key) {
            o.waiters.retain(|w| *w != slot);
        }
        Some(wait)
    }

    fn retry(&mut self, slot: usize, expired: bool) {
        let Some(w) = self.unpark(slot) else { return };
        let alive = self.listener(w.listener).is_some_and(|l| seccomp::valid(l, w.n.id));
        if alive {
            self.serve(Call {
                n: w.n,
                listener: w.listener,
                parked: Some(w.key),
                deadline: w.deadline,
                expired,
            });
        }
    }

    /// Tries the parked calls of an object again, oldest first, each once; stops at the first that blocks again when `fifo`.
    pub(crate) fn wake(&mut self, key: Key, fifo: bool) {
        let waiters = self.objects.get(key).map(|o| o.waiters.clone()).unwrap_or_default();
        for slot in waiters {
            let before = self.wait_id(slot);
            self.retry(slot, false);
            let again = self
                .objects
                .get(key)
                .is_some_and(|o| o.waiters.first().is_some_and(|s| self.wait_id(*s) == before));
            if fifo && before.is_some() && again {
                break;
            }
        }
    }

    fn wait_id(&self, slot: usize) -> Option<u64> {
        self.waits.get(slot)?.as_ref().map(|w| w.n.id)
    }

    fn expire(&mut self) {
        while let Some(&(at, slot)) = self.deadlines.first() {
            if at > self.now_ns {
                break;
            }
            self.deadlines.pop_first();
            self.retry(slot, true);
        }
    }

    /// Answers all parked calls of a closing object with EBADF and forgets them.
    pub(crate) fn drop_waiters(&mut self, key: Key) {
        for slot in self.objects.get(key).map(|o| o.waiters.clone()).unwrap_or_default() {
            if let Some(w) = self.unpark(slot)
                && let Some(l) = self.listener(w.listener)
            {
                seccomp::answer(l, w.n.id, -i64::from(libc::EBADF));
            }
        }
    }

    /// Registers a new object's end of the pair and stores it.
    pub(crate) fn adopt(&mut self, object: Object) -> Key {
        let key = self.objects.insert(object);
        self.watch_end(key);
        key
    }

    /// Starts waiting for events at an object's end of its pair.
    pub(crate) fn watch_end(&mut self, key: Key) {
        if let Some(o) = self.objects.get(key)
            && let Some(mine) = &o.mine
            && let Err(e) =
                self.poller.add(mine.as_fd(), Token::Object(key.index, key.generation), o.interest)
        {
            tracing::error!("epoll_ctl: {e}");
        }
    }

    /// Changes what is waited for on an object's end, when it differs.
    pub(crate) fn set_interest(&mut self, key: Key, interest: u32) {
        let Some(o) = self.objects.get_mut(key) else { return };
        if o.interest == interest {
            return;
        }
        o.interest = interest;
        if let Some(mine) = &o.mine {
            self.poller.modify(mine.as_fd(), Token::Object(key.index, key.generation), interest);
        }
    }

    /// The namespace of a calling thread, made on first sight.
    pub(crate) fn ns_of(&mut self, tid: u32) -> std::result::Result<NsId, i32> {
        self.tasks.who(tid);
        self.ns_of_known(tid)
    }

    /// As `ns_of`, when the thread is surely the one that was seen last.
    fn ns_of_known(&mut self, tid: u32) -> std::result::Result<NsId, i32> {
        if let Some(ino) = self.tasks.known_net(tid)
            && let Some(ns) = self.kernel.ns_by_cookie(ino)
        {
            return Ok(ns);
        }
        let (ino, fd) = self.tasks.open_net(tid)?;
        self.ns_of_inode(ino, fd.as_fd())
    }

    /// The namespace with this inode, made and watched on first sight.
    pub(crate) fn ns_of_inode(&mut self, ino: u64, fd: BorrowedFd<'_>) -> std::result::Result<NsId, i32> {
        // An inode number may be in use again: first hear what ended.
        self.namespaces_ended();
        if let Some(ns) = self.kernel.ns_by_cookie(ino) {
            return Ok(ns);
        }
        self.watch.watch(fd, ino);
        self.kernel.ns_create(ino).map_err(|e| e.0.into())
    }

    pub(crate) fn namespaces_ended(&mut self) {
        for ino in self.watch.ended() {
            if let Some(ns) = self.kernel.ns_by_cookie(ino) {
                self.kernel.ns_destroy(ns);
            }
        }
    }

    /// Runs `f` with the stack and the caller's identity, looked up afresh.
    pub(crate) fn with_caller<T>(
        &mut self,
        tid: u32,
        f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> T,
    ) -> std::result::Result<T, i32> {
        let who = self.tasks.who(tid);
        let ns = self.ns_of_known(tid)?;
        Ok(self.as_caller(tid, who, ns, f))
    }

    /// As `with_caller` for calls on an open socket, whose permissions were settled when it was made.
    pub(crate) fn with_sock_caller<T>(
        &mut self,
        tid: u32,
        f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> T,
    ) -> std::result::Result<T, i32> {
        let who = self.tasks.who_cached(tid);
        let ns = self.ns_of_known(tid)?;
        Ok(self.as_caller(tid, who, ns, f))
    }

    /// As `with_caller`, in a given namespace.
    pub(crate) fn with_caller_in<T>(
        &mut self,
        tid: u32,
        ns: NsId,
        f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> T,
    ) -> T {
        let who = self.tasks.who(tid);
        self.as_caller(tid, who, ns, f)
    }

    fn as_caller<T>(
        &mut self,
        tid: u32,
        (pid, uid): (u32, u32),
        ns: NsId,
        f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> T,
    ) -> T {
        let Self { kernel, tasks, watch, now_ns, .. } = self;
        let (tasks, now) = (std::cell::RefCell::new(tasks), *now_ns);
        let caps = || tasks.borrow_mut().caps(tid, now);
        let mut resolve = |r: NsRef| -> Option<u64> {
            let (ino, fd) = sys::nsref::open(&mut tasks.borrow_mut(), tid, r)?;
            watch.watch(fd.as_fd(), ino);
            Some(ino)
        };
        let mut caller = Caller { ns, pid, uid, caps: &caps, resolve_ns: &mut resolve };
        f(kernel, &mut caller)
    }

    /// Runs `f` as the edge itself, root of the first namespace.
    pub(crate) fn as_edge<T>(&mut self, f: impl FnOnce(&mut Kernel, &mut Caller<'_>) -> T) -> T {
        let mut none = |_: NsRef| None;
        let mut caller =
            Caller { ns: self.first_ns, pid: 0, uid: 0, caps: &Caps::all, resolve_ns: &mut none };
        f(&mut self.kernel, &mut caller)
    }

    /// The message socket this thread had at this high number. Such numbers are given out by us, so what was true stays
    /// true until the socket is closed (its object is gone then) or `forget_fds` is called; but not for ever: where another
    /// process has the socket too, nobody tells us that this one closed it, or ended, and what came in its place.
    pub(crate) fn known_fd(&self, tid: u32, fd: i32) -> Option<Key> {
        let (key, at) = *self.known_fds.get(&(tid, fd))?;
        let believed = self.now_ns.saturating_sub(at) < BELIEVED;
        self.objects.get(key).filter(|_| believed).map(|_| key)
    }

    /// Remembers a message socket's number.
    pub(crate) fn learn_fd(&mut self, tid: u32, fd: i32, key: Key) {
        if self.known_fds.len() > 8192 {
            self.known_fds.clear();
        }
        self.known_fds.insert((tid, fd), (key, self.now_ns));
    }

    /// A new object was put at this high number, for all threads of the process.
    pub(crate) fn replaced_fd(&mut self, fd: i32) {
        if self.known_fds.len() > 256 {
            self.known_fds.clear();
        }
        self.known_fds.retain(|(_, f), _| *f != fd);
    }

    /// The thread may have put something else at a high number.
    pub(crate) fn forget_fds(&mut self) {
        self.known_fds.clear();
    }

    /// A free descriptor number at or above the base in the caller's table: up to 1023 while there are, for select(2), and
    /// beyond; `Lowest` when its limit is too small.
    pub(crate) fn high_slot(&mut self, tid: u32) -> Slot {
        let start = self.next_fd.get(&tid).copied().unwrap_or(join::FD_BASE);
        for n in start..os::nofile().1.try_into().unwrap_or(u32::MAX) {
            match self.tasks.getfd(tid, n as i32) {
                Err(libc::EBADF) => {
                    // From time to time those below are looked at again.
                    let next = if (n + 1).is_multiple_of(512) { join::FD_BASE } else { n + 1 };
                    if self.next_fd.len() > 4096 {
                        self.next_fd.clear();
                    }
                    self.next_fd.insert(tid, next);
                    return Slot::At(n);
                }
                Err(_) => break,
                Ok(_) => {}
            }
        }
        Slot::Lowest
    }

    /// The number that `high_slot` found is beyond the caller's limit: another one below it, if it did not just begin there.
    pub(crate) fn lower_slot(&mut self, tid: u32, refused: u32) -> Slot {
        self.next_fd.remove(&tid);
        match self.high_slot(tid) {
            Slot::At(n) if n < refused => Slot::At(n),
            _ => {
                self.next_fd.remove(&tid);
                Slot::Lowest
            }
        }
    }
}
