//! The directories that stand for /proc/sys/net: empty files in the sandbox's private /run, made when they are asked for.
//!
//! Root inside may put links or mounts there. So everything is done below a descriptor that was opened before the first
//! program ran, one component at a time, and what is a link or another mount is refused.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, unlinkat};

/// How deep below a directory that is in the way others are removed.
const DEEPEST: usize = 8;

/// A directory below `base`, which must be one already.
fn enter(base: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let stay = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat2(base, name, flags, Mode::empty(), stay)?)
}

/// As `enter`, made when it is not there.
fn make(base: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(base, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => enter(base, name),
        Err(e) => Err(e.into()),
    }
}

/// The directory `path` below `base`, holding exactly these names; true: a directory.
pub(crate) fn mirror(base: BorrowedFd<'_>, path: &str, list: &[(String, bool)]) -> io::Result<OwnedFd> {
    let mut dir = base.try_clone_to_owned()?;
    for part in path.split('/').filter(|p| !p.is_empty()) {
        dir = make(dir.as_fd(), part)?;
    }
    for (name, kind) in entries(dir.as_fd())? {
        if !list.iter().any(|(x, is_dir)| *x == name && *is_dir == (kind == FileType::Directory)) {
            remove(dir.as_fd(), &name, kind, DEEPEST)?;
        }
    }
    for (name, is_dir) in list {
        if *is_dir {
            make(dir.as_fd(), name)?;
        } else {
            let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(&dir, name.as_str(), flags, Mode::from_raw_mode(0o644))?;
        }
    }
    Ok(dir)
}

/// Names and kinds in a directory.
fn entries(dir: BorrowedFd<'_>) -> io::Result<Vec<(String, FileType)>> {
    let all = Dir::read_from(dir)?.flatten();
    let named = all.filter_map(|e| Some((e.file_name().to_str().ok()?.to_owned(), e.file_type())));
    Ok(named.filter(|(n, _)| n != "." && n != "..").collect())
}

fn remove(dir: BorrowedFd<'_>, name: &str, kind: FileType, depth: usize) -> io::Result<()> {
    if kind != FileType::Directory {
        return Ok(unlinkat(dir, name, AtFlags::empty())?);
    }
    if depth > 0 {
        let inner = enter(dir, name)?;
        for (n, k) in entries(inner.as_fd())? {
            remove(inner.as_fd(), &n, k, depth - 1)?;
        }
    }
    Ok(unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_tree_is_as_listed_and_links_are_not_followed() {
        let top = std::env::temp_dir().join(format!("ferronet-tree-{}", std::process::id()));
        let (tree, other) = (top.join("tree"), top.join("other"));
        fs::create_dir_all(tree.join("7/sys/net/old/deep")).expect("a directory");
        fs::create_dir_all(&other).expect("a directory");
        let base = fs::File::open(&tree).expect("a directory");
        let list = [("ipv4".to_owned(), true), ("value".to_owned(), false)];
        let dir = mirror(base.as_fd(), "7/sys/net", &list).expect("made");
        let mut names: Vec<String> =
            entries(dir.as_fd()).expect("read").into_iter().map(|(n, _)| n).collect();
        names.sort();
        assert_eq!(names, ["ipv4", "value"]);
        // A link in the place of a directory leads nowhere.
        std::os::unix::fs::symlink(&other, tree.join("8")).expect("symlink");
        assert!(mirror(base.as_fd(), "8/sys/net", &list).is_err());
        assert_eq!(fs::read_dir(&other).expect("read").count(), 0);
        fs::remove_dir_all(top).expect("removed");
    }
}
