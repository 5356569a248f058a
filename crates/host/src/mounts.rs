//! What programs of the sandbox see in their mount namespace.

use std::ffi::CString;
use std::io;

use crate::os::cvt;

/// Directory of ferronet's own files inside the sandbox.
pub(crate) const RUN_DIR: &str = "/run/ferronet";
/// Directory that is first in PATH inside the sandbox.
pub(crate) const BIN_DIR: &str = "/run/ferronet/bin";
/// Directory of the trees that stand in for /proc/sys/net directories.
pub(crate) const TREE_DIR: &str = "/run/ferronet/tree";
/// Where named network namespaces are bound, as ip-netns(8) has it.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// `sudo` inside the sandbox: the user is root there already, so it just runs the command.
const SUDO: &str = r#"#!/bin/sh
# Options of sudo that take a value are skipped with it; the rest is the command.
while [ $# -gt 0 ]; do
    case $1 in
        --) shift; break ;;
        -u|-g|-h|-p|-C|-D|-R|-T|-U|-r|-t) shift; [ $# -gt 0 ] && shift ;;
        -i|-s) shell=1; shift ;;
        -*) shift ;;
        *) break ;;
    esac
done
if [ $# -eq 0 ]; then
    [ -n "$shell" ] && exec "${SHELL:-/bin/sh}"
    echo "usage: sudo COMMAND" >&2
    exit 1
fi
exec env "$@"
"#;

/// mount(2) with string arguments.
pub(crate) fn mount(src: &str, dst: &str, fstype: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let c = |s: &str| CString::new(s).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    let (src, dst, fstype, data) = (c(src)?, c(dst)?, c(fstype)?, c(data)?);
    // SAFETY: four NUL-terminated strings that live across the call.
    cvt(unsafe { libc::mount(src.as_ptr(), dst.as_ptr(), fstype.as_ptr(), flags, data.as_ptr().cast()) }
        .into())
    .map(drop)
}

/// Prepares the mounts; runs as the first process of the new namespaces. The error names the step.
pub(crate) fn prepare() -> Result<(), (&'static str, io::Error)> {
    let step = |s: &'static str| move |e: io::Error| (s, e);
    mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE, "").map_err(step("making mounts private"))?;
    let nodev = libc::MS_NOSUID | libc::MS_NODEV;
    mount("tmpfs", "/run", "tmpfs", nodev, "mode=755").map_err(step("mounting a private /run"))?;
    // Where containers mask parts of /proc or /sys the kernel refuses fresh ones; the old ones still serve, with pids of outside.
    let _ = mount("proc", "/proc", "proc", nodev | libc::MS_NOEXEC, "");
    let _ = mount("sysfs", "/sys", "sysfs", nodev | libc::MS_NOEXEC, "");
    tree().map_err(step("filling /run"))?;
    // As ip-netns(8) does it, so that its own attempts find things in order.
    let shared = libc::MS_SHARED | libc::MS_REC;
    mount(NETNS_DIR, NETNS_DIR, "none", libc::MS_BIND | libc::MS_REC, "")
        .map_err(step("binding /run/netns"))?;
    mount("", NETNS_DIR, "none", shared, "").map_err(step("sharing /run/netns"))
}

fn tree() -> io::Result<()> {
    use std::fs::{Permissions, create_dir_all, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;
    for dir in [NETNS_DIR, BIN_DIR, TREE_DIR, "/run/lock"] {
        create_dir_all(dir)?;
    }
    for dir in [NETNS_DIR, BIN_DIR, TREE_DIR, RUN_DIR] {
        set_permissions(dir, Permissions::from_mode(0o755))?;
    }
    set_permissions("/run/lock", Permissions::from_mode(0o1777))?;
    let sudo = format!("{BIN_DIR}/sudo");
    write(&sudo, SUDO)?;
    set_permissions(&sudo, Permissions::from_mode(0o755))?;
    // The command itself, wherever it was started from: `ferronet trace` in the shell.
    match std::env::current_exe() {
        Ok(own) if own.file_name().is_some_and(|n| n == "ferronet") => {
            std::os::unix::fs::symlink(own, format!("{BIN_DIR}/ferronet"))
        }
        _ => Ok(()),
    }
}
