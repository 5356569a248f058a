//! The walk that everybody does first: a namespace, a pair of devices, a ping, and away with it. As an ordinary user, as
//! root, and with `sudo` before each command; and nothing is left of it.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use common::{Ended, can_run, run};
use ferronet_sim::need;

/// The commands; `SUDO` stands for what the test puts before each.
const WALK: &str = r#"set -e
SUDO ip netns add test-ns
SUDO ip netns exec test-ns ip link list
SUDO ip link add veth-host type veth peer name veth-ns
SUDO ip link set veth-ns netns test-ns
SUDO ip addr add 10.200.1.1/24 dev veth-host
SUDO ip link set veth-host up
SUDO ip netns exec test-ns ip addr add 10.200.1.2/24 dev veth-ns
SUDO ip netns exec test-ns ip link set veth-ns up
SUDO ip netns exec test-ns ip link set lo up
SUDO ip netns exec test-ns ping -c 2 10.200.1.1
echo "identify here: [$(SUDO ip netns identify $$)]"
SUDO ip netns exec test-ns sh -c 'echo "identify there: [$(SUDO ip netns identify $$)]"'
SUDO ip netns exec test-ns sh -c 'echo "namespace: $(readlink /proc/self/ns/net)"'
echo "listed: [$(SUDO ip netns list)]"
SUDO ip netns del test-ns
# A namespace ends a little after its name is gone, on Linux too.
for i in $(seq 500); do SUDO ip link show veth-host >/dev/null 2>&1 || break; done
echo "left: [$(SUDO ip netns list)] [$(ls /run/netns)] [$(grep -c test-ns /proc/self/mountinfo)] [$(SUDO ip -br link)]"
echo "here: $(readlink /proc/self/ns/net)"
"#;

/// One walk at a time: the kernel gives the number of a namespace that is gone to the next one, and the next walk's must
/// not look like what this one left.
static WALKS: Mutex<()> = Mutex::new(());

/// A user for one test, removed with its home at the end.
struct User(String);

impl User {
    /// `None` when this machine has no way to make one; the test is recorded as skipped.
    fn new(test: &str) -> Option<User> {
        for p in ["useradd", "userdel", "setpriv"] {
            need::program(test, p)?;
        }
        let name = format!("fn-twin-{}-{}", std::process::id(), test.len());
        let made = Command::new("useradd").args(["-m", "-s", "/bin/sh", &name]).output().expect("useradd");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(User(name))
    }

    fn home(&self) -> PathBuf {
        Path::new("/home").join(&self.0)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Command::new("userdel").args(["-r", &self.0]).stderr(Stdio::null()).status();
    }
}

/// A copy of the command that every user may run, removed at the end.
struct Binary(PathBuf);

impl Binary {
    fn new(test: &str) -> Binary {
        let dir = std::env::temp_dir().join(format!("fn-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        std::fs::copy(env!("CARGO_BIN_EXE_ferronet"), dir.join("ferronet")).expect("a copy");
        for p in [&dir, &dir.join("ferronet")] {
            std::fs::set_permissions(p, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        }
        Binary(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.join("ferronet")
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the walk in `ferronet shell`, which `start` starts, and looks at what it says and leaves behind.
fn walk(mut start: Command, script: &str, test: &str) {
    let _alone = WALKS.lock().unwrap_or_else(PoisonError::into_inner);
    let file = std::env::temp_dir().join(format!("fn-{test}-{}.sh", std::process::id()));
    std::fs::write(&file, script).expect("the script");
    start
        .stdin(std::fs::File::open(&file).expect("the script"))
        .env("SHELL", "/bin/sh")
        .env("LC_ALL", "C.UTF-8");
    let e = run(start);
    let _ = std::fs::remove_file(&file);
    assert_eq!((e.code, e.err.as_str()), (0, ""), "{}", e.out);
    says(&e);
    let namespaces: Vec<&str> = e.out.split_whitespace().filter(|w| w.starts_with("net:[")).collect();
    assert_eq!(namespaces.len(), 2, "{}", e.out);
    for n in namespaces {
        nothing_of(n);
    }
}

/// The output of the walk.
fn says(e: &Ended) {
    let fresh = "1: lo: <LOOPBACK> mtu 65536 qdisc noop state DOWN mode DEFAULT group default qlen 1000\n    \
                 link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00\n";
    assert!(e.out.starts_with(fresh), "{}", e.out);
    for want in [
        "PING 10.200.1.1 (10.200.1.1) 56(84) bytes of data.",
        "2 packets transmitted, 2 received, 0% packet loss",
        "identify here: []",
        "identify there: [test-ns]",
        "listed: [test-ns (id: 0)]",
    ] {
        assert!(e.out.contains(want), "{want}: {}", e.out);
    }
    let left = e.out.lines().find(|l| l.starts_with("left: ")).expect("said");
    let only_lo = "left: [] [] [0] [lo               DOWN           00:00:00:00:00:00 <LOOPBACK> ]";
    assert_eq!(left, only_lo, "{}", e.out);
}

/// No process is in the namespace, none holds it open or mounted.
fn nothing_of(namespace: &str) {
    let inode = namespace.trim_start_matches("net:[").trim_end_matches(']');
    let mounted = format!("net:[{inode}]");
    for p in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) =
            p.file_name().to_str().filter(|n| n.bytes().all(|b| b.is_ascii_digit())).map(str::to_owned)
        else {
            continue;
        };
        let at = |what: &str| format!("/proc/{pid}/{what}");
        let who = format!("{pid} ({})", std::fs::read_to_string(at("cmdline")).unwrap_or_default());
        let is_it = |path: &Path| std::fs::read_link(path).is_ok_and(|l| l.as_os_str() == namespace);
        assert!(!is_it(Path::new(&at("ns/net"))), "process {who} is in {namespace}");
        let fds = std::fs::read_dir(at("fd")).into_iter().flatten().flatten();
        assert!(!fds.map(|f| f.path()).any(|f| is_it(&f)), "process {who} holds {namespace}");
        let mounts = std::fs::read_to_string(at("mountinfo")).unwrap_or_default();
        assert!(!mounts.contains(&mounted), "process {who} has {namespace} mounted");
    }
}

fn ready(test: &str) -> bool {
    ["ip", "ping"].iter().all(|p| need::program(test, p).is_some()) && can_run(test)
}

/// As the user who runs the tests: root in CI.
fn as_i_am(test: &str, sudo: &str) {
    if ready(test) {
        let mut c = Command::new(env!("CARGO_BIN_EXE_ferronet"));
        c.arg("shell");
        walk(c, &WALK.replace("SUDO ", sudo), test);
    }
}

/// As an ordinary user, made for the test when this is root.
fn as_ordinary(test: &str, sudo: &str) {
    if !ready(test) {
        return;
    }
    let uid = std::fs::metadata("/proc/self").map_or(0, |m| std::os::unix::fs::MetadataExt::uid(&m));
    if uid != 0 {
        return as_i_am(test, sudo);
    }
    let Some(user) = User::new(test) else { return };
    let binary = Binary::new(test);
    let mut c = Command::new("setpriv");
    c.args(["--reuid", &user.0, "--regid", &user.0, "--init-groups", "--reset-env"]);
    c.arg("env").arg("SHELL=/bin/sh").arg("LC_ALL=C.UTF-8").arg(binary.path()).arg("shell");
    c.current_dir(user.home());
    walk(c, &WALK.replace("SUDO ", sudo), test);
}

#[test]
fn walk_as_i_am() {
    as_i_am("walk_as_i_am", "");
}

#[test]
fn walk_as_i_am_with_sudo() {
    as_i_am("walk_as_i_am_with_sudo", "sudo ");
}

#[test]
fn walk_as_ordinary_user() {
    as_ordinary("walk_as_ordinary_user", "");
}

#[test]
fn walk_as_ordinary_user_with_sudo() {
    as_ordinary("walk_as_ordinary_user_with_sudo", "sudo ");
}
