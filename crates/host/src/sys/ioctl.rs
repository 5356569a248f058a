//! ioctl(2) of sockets: SIOC* for interfaces, queues and routes, on sockets of any family.

use std::os::fd::AsFd;

use ferronet_linux::{Kernel, SockId};

use crate::mem;
use crate::obj::Body;
use crate::os;
use crate::queues::ioctl_int;
use crate::supervisor::{Answer, Call, Supervisor};
use crate::sys::ours;

const SIOCATMARK: u32 = 0x8905;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCETHTOOL: u32 = 0x8946;
/// Answers larger than this are not asked for (SIOCGIFCONF of 1,600 interfaces).
const MAX: usize = 64 << 10;

/// ioctl(fd, cmd, arg).
pub(crate) fn ioctl(s: &mut Supervisor, call: &Call) -> Answer {
    let cmd = call.n.ptr(1) as u32;
    let o = ours(s, call);
    let (key, sock, stream) = match &o {
        Some(o) => match s.objects.get(o.key).map(|x| &x.body) {
            Some(Body::Stream(sock, _)) => (Some(o.key), Some(*sock), true),
            Some(Body::Message(sock, _)) => (Some(o.key), Some(*sock), false),
            Some(Body::Tun(_)) => return crate::dev::tun::ioctl(s, call, o.key),
            _ => return Answer::Continue,
        },
        // Interface questions on sockets of other families (glibc asks on AF_UNIX), in socket.c's range for devices.
        None if is_device(cmd) && is_socket(s, call) => (None, None, false),
        None => return Answer::Continue,
    };
    // The pair has the bytes and the urgent mark.
    if stream && (cmd == libc::FIONREAD as u32 || cmd == SIOCATMARK) {
        return Answer::Continue;
    }
    if cmd == SIOCGIFCONF {
        return ifconf(s, call, sock);
    }
    let (tid, mut at) = (call.n.tid, call.n.ptr(2));
    let len = Kernel::ioctl_arg_len(cmd);
    let mut arg = match mem::read_vec(tid, at, len) {
        Ok(a) => a,
        Err(e) => return Answer::Err(e),
    };
    if cmd == SIOCETHTOOL {
        // ifr_data: a structure that begins with the command.
        at = arg.get(16..24).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
        if let Err(e) = mem::append(tid, at, 8, &mut arg) {
            return Answer::Err(e);
        }
    }
    match s.with_caller(tid, |k, c| k.ioctl(c, sock, cmd, &arg)) {
        Ok(Ok(mut out)) => {
            if let (true, Some(key)) = (cmd == libc::TIOCOUTQ as u32, key) {
                add_unsent(s, key, &mut out);
            }
            match mem::write(tid, at, &out) {
                Ok(()) => Answer::Ret(0),
                Err(e) => Answer::Err(e),
            }
        }
        Ok(Err(e)) => e.into(),
        Err(e) => Answer::Err(e),
    }
}

fn is_device(cmd: u32) -> bool {
    (0x890b..=0x890d).contains(&cmd) || (0x8910..=0x89df).contains(&cmd) || (0x89f0..=0x89ff).contains(&cmd)
}

fn is_socket(s: &mut Supervisor, call: &Call) -> bool {
    s.tasks.getfd(call.n.tid, call.n.int(0)).is_ok_and(|fd| os::cookie(fd.as_fd()).is_some())
}

/// SIOCOUTQ counts what the program wrote and the stack has not taken yet, too.
fn add_unsent(s: &mut Supervisor, key: crate::obj::Key, out: &mut [u8]) {
    let Some((_, st, Some(mine))) = s.objects.stream(key) else { return };
    let queued = ioctl_int(mine.as_fd(), libc::FIONREAD) as i32;
    let extra = queued + st.out.as_ref().map_or(0, |b| b.len() as i32);
    if let Some(v) = out.first_chunk_mut::<4>() {
        *v = i32::from_ne_bytes(*v).saturating_add(extra).to_ne_bytes();
    }
}

/// struct ifconf { int len; void *buf }: the stack gets the room as a C int and answers with the array of ifreqs.
fn ifconf(s: &mut Supervisor, call: &Call, sock: Option<SockId>) -> Answer {
    let (tid, at) = (call.n.tid, call.n.ptr(2));
    let (len, buf) =
        match mem::read_val::<i32>(tid, at).and_then(|l| Ok((l, mem::read_val::<u64>(tid, at + 8)?))) {
            Ok(x) => x,
            Err(e) => return Answer::Err(e),
        };
    let room = if buf == 0 { MAX } else { usize::try_from(len).unwrap_or(0).min(MAX) };
    match s.with_caller(tid, |k, c| k.ioctl(c, sock, SIOCGIFCONF, &(room as i32).to_ne_bytes())) {
        Ok(Ok(out)) => {
            let out = out.get(..out.len().min(room)).unwrap_or_default();
            let put = if buf == 0 { Ok(()) } else { mem::write(tid, buf, out) };
            match put.and_then(|()| mem::write_val(tid, at, &(out.len() as i32))) {
                Ok(()) => Answer::Ret(0),
                Err(e) => Answer::Err(e),
            }
        }
        Ok(Err(e)) => e.into(),
        Err(e) => Answer::Err(e),
    }
}
