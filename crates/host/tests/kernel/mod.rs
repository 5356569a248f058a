//! The running kernel as a player of packet scripts: a network namespace of its own with a TAP device whose other
//! end is the script, real system calls on real sockets, wall-clock time.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ferronet_sim::script::{Answer, LOCAL_MAC, Player, QUIET, REMOTE_MAC, SETTLE, Setup, SysCall};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;

/// Largest frame the device gives.
const FRAME: usize = 65_600;

/// A namespace of the running kernel. It ends with the thread that made it.
pub(crate) struct Kernel {
    tap: std::fs::File,
    socks: Vec<Option<OwnedFd>>,
    start: Instant,
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The value of a call, or errno.
fn value(r: libc::ssize_t) -> Result<Answer, i32> {
    if r < 0 { Err(errno()) } else { Ok(Answer { value: r as i64, ..Answer::default() }) }
}

impl Kernel {
    /// Moves the calling thread into a fresh network namespace with a TAP device `tap0`.
    pub(crate) fn new() -> Result<Kernel, String> {
        // SAFETY: no memory is involved; only this thread changes its namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(format!("unshare(CLONE_NEWNET): errno {}", errno()));
        }
        // Inputs should not wait for other programs. Without the right to ask for it, tests may repeat a play.
        let p = libc::sched_param { sched_priority: 1 };
        // SAFETY: the parameter is read; 0 is the calling thread.
        let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &p) };
        let tap =
            OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(|e| e.to_string())?;
        let mut req = [0u8; 40];
        req[..4].copy_from_slice(b"tap0");
        req[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI).to_ne_bytes());
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, 40 bytes.
        if unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETIFF, req.as_mut_ptr()) } != 0 {
            return Err(format!("TUNSETIFF: errno {}", errno()));
        }
        rustix::io::ioctl_fionbio(&tap, true).map_err(|e| e.to_string())?;
        Ok(Kernel { tap, socks: Vec::new(), start: Instant::now() })
    }

    fn open(&mut self, fd: libc::c_int) -> Result<Answer, i32> {
        if fd < 0 {
            return Err(errno());
        }
        // SAFETY: the call has just made it; nobody else owns it.
        self.socks.push(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
        Ok(Answer { value: self.socks.len() as i64 - 1, ..Answer::default() })
    }

    fn fd(&self, s: i64) -> libc::c_int {
        self.socks.get(s as usize).and_then(Option::as_ref).map_or(-1, |f| f.as_raw_fd())
    }

    fn drain(&mut self, out: &mut Vec<(Duration, Vec<u8>)>) {
        let mut b = vec![0; FRAME];
        while let Ok(n) = self.tap.read(&mut b) {
            out.push((self.now(), b[..n].to_vec()));
        }
    }

    fn recv(&self, s: i64, len: usize, flags: i32) -> Result<Answer, i32> {
        let mut data = vec![0u8; len];
        let mut name = [0u8; 128];
        let mut name_len = name.len() as libc::socklen_t;
        // SAFETY: both buffers are as long as said.
        let n = unsafe {
            let to = name.as_mut_ptr().cast();
            libc::recvfrom(self.fd(s), data.as_mut_ptr().cast(), len, flags, to, &mut name_len)
        };
        let a = value(n)?;
        data.truncate(a.value as usize);
        Ok(Answer { data, name: name[..name_len as usize].to_vec(), ..a })
    }

    fn get_opt(&self, s: i64, (level, name): (i32, i32), room: usize) -> Result<Answer, i32> {
        let mut data = vec![0u8; room];
        let mut len = room as libc::socklen_t;
        // SAFETY: the buffer is as long as said.
        let r = unsafe { libc::getsockopt(self.fd(s), level, name, data.as_mut_ptr().cast(), &mut len) };
        let a = value(r as libc::ssize_t)?;
        data.truncate(len as usize);
        Ok(Answer { data, ..a })
    }
}

fn mac(m: [u8; 6]) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}

/// `ip -batch` inside the namespace.
fn ip_batch(lines: &str) -> Result<(), String> {
    let mut c = Command::new("ip");
    let c = c.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = c.spawn().map_err(|e| format!("ip: {e}"))?;
    if let Some(mut i) = child.stdin.take() {
        i.write_all(lines.as_bytes()).map_err(|e| e.to_string())?;
    }
    let o = child.wait_with_output().map_err(|e| e.to_string())?;
    if o.status.success() { Ok(()) } else { Err(format!("{lines}{}", String::from_utf8_lossy(&o.stderr))) }
}

impl Player for Kernel {
    fn setup(&mut self, s: &Setup) -> Result<(), String> {
        for (path, v) in QUIET {
            self.write(path, v).map_err(|e| format!("{path}: errno {e}"))?;
        }
        for (path, v) in &s.sysctls {
            self.write(path, v).map_err(|e| format!("{path}: errno {e}"))?;
        }
        let mut b = format!("link set lo up\nlink set tap0 address {} mtu {} up\n", mac(LOCAL_MAC), s.mtu);
        b += "addr add 10.0.0.1/24 dev tap0\naddr add fd00::1/64 dev tap0 nodad\n";
        for (a, len) in &s.addrs {
            let nodad = if a.is_ipv6() { "nodad" } else { "" };
            b += &format!("addr add {a}/{len} dev tap0 {nodad}\n");
        }
        b += "route add default via 10.0.0.2\nroute add default via fd00::2\n";
        for (a, len, via) in &s.routes {
            b += &format!("route add {a}/{len} via {via} dev tap0\n");
        }
        if s.neigh {
            for a in ["10.0.0.2", "fd00::2"] {
                b += &format!("neigh add {a} lladdr {} dev tap0 nud permanent\n", mac(REMOTE_MAC));
            }
        }
        ip_batch(&b)?;
        self.start = Instant::now();
        self.wait(SETTLE, usize::MAX, &mut Vec::new());
        self.start = Instant::now();
        Ok(())
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wait(&mut self, until: Duration, enough: usize, out: &mut Vec<(Duration, Vec<u8>)>) {
        loop {
            self.drain(out);
            let now = self.now();
            if now >= until || out.len() >= enough {
                return;
            }
            let left = until - now;
            let t = rustix::event::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut p =
                [rustix::event::PollFd::from_borrowed_fd(self.tap.as_fd(), rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut p, Some(&t));
        }
    }

    fn inject(&mut self, frame: &[u8]) {
        // The kernel handles the frame within this call (tun_get_user, netif_receive_skb).
        self.tap.write_all(frame).expect("the device takes frames");
    }

    fn call(&mut self, c: &SysCall<'_>) -> Result<Answer, i32> {
        let nonblock = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: every pointer goes to a slice of the length that goes with it, alive during the call; descriptors
        // are our own or -1.
        unsafe {
            match *c {
                SysCall::Socket(f, t, p) => {
                    let fd = libc::socket(f, t | nonblock, p);
                    if t == libc::SOCK_STREAM {
                        // The machine's own default may be another, and not every one may be set by sysctl here.
                        let cubic = b"cubic";
                        libc::setsockopt(
                            fd,
                            libc::IPPROTO_TCP,
                            libc::TCP_CONGESTION,
                            cubic.as_ptr().cast(),
                            5,
                        );
                    }
                    self.open(fd)
                }
                SysCall::Accept(s) => {
                    let fd = libc::accept4(self.fd(s), std::ptr::null_mut(), std::ptr::null_mut(), nonblock);
                    self.open(fd)
                }
                SysCall::Bind(s, a) => {
                    value(libc::bind(self.fd(s), a.as_ptr().cast(), a.len() as u32) as libc::ssize_t)
                }
                SysCall::Connect(s, a) => {
                    value(libc::connect(self.fd(s), a.as_ptr().cast(), a.len() as u32) as libc::ssize_t)
                }
                SysCall::Listen(s, n) => value(libc::listen(self.fd(s), n) as libc::ssize_t),
                SysCall::Send(s, d, flags, to) => {
                    let name = if to.is_empty() { std::ptr::null() } else { to.as_ptr().cast() };
                    let flags = flags | libc::MSG_NOSIGNAL;
                    value(libc::sendto(self.fd(s), d.as_ptr().cast(), d.len(), flags, name, to.len() as u32))
                }
                SysCall::Recv(s, len, flags) => self.recv(s, len, flags),
                SysCall::Shutdown(s, how) => value(libc::shutdown(self.fd(s), how) as libc::ssize_t),
                SysCall::Close(s) => match self.socks.get_mut(s as usize).and_then(Option::take) {
                    Some(fd) => {
                        drop(fd);
                        Ok(Answer::default())
                    }
                    None => Err(libc::EBADF),
                },
                SysCall::SetOpt(s, l, n, v) => {
                    let r = libc::setsockopt(self.fd(s), l, n, v.as_ptr().cast(), v.len() as u32);
                    value(r as libc::ssize_t)
                }
                SysCall::GetOpt(s, l, n, room) => self.get_opt(s, (l, n), room),
                SysCall::Poll(s) => {
                    let events = libc::POLLIN | libc::POLLPRI | libc::POLLOUT | libc::POLLRDHUP;
                    let mut p = libc::pollfd { fd: self.fd(s), events, revents: 0 };
                    value(libc::poll(&mut p, 1, 0) as libc::ssize_t)?;
                    Ok(Answer { value: p.revents.into(), ..Answer::default() })
                }
            }
        }
    }

    fn read(&mut self, path: &str) -> String {
        // /proc/net is the process's; this thread has a namespace of its own.
        let path = path
            .strip_prefix("net/")
            .map_or(format!("/proc/{path}"), |f| format!("/proc/thread-self/net/{f}"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    fn write(&mut self, path: &str, text: &str) -> Result<(), i32> {
        std::fs::write(format!("/proc/{path}"), text).map_err(|e| e.raw_os_error().unwrap_or(0))
    }
}
