//! Writes against what Linux 6.18 answers; the whole table is compared in `crates/sim/tests/sysctl_twin.rs`.

use super::*;

#[test]
fn writes_are_checked_like_the_kernels() {
    let mut t = SysctlTable::default();
    assert_eq!(t.write(Sysctl::IpForward, b"1\n"), Ok(()));
    assert_eq!(t.read(Sysctl::IpForward), "1\n");
    assert_eq!(t.write(Sysctl::IpForward, b"x"), Err(Errno::EINVAL));
    assert_eq!(t.write(Sysctl::Somaxconn, b"-1"), Err(Errno::EINVAL));
    assert_eq!(t.write(Sysctl::Somaxconn, b""), Ok(()));
    assert_eq!(t.write(Sysctl::Somaxconn, b"\n"), Err(Errno::EINVAL));
    assert_eq!(t.write(Sysctl::Somaxconn, b"1\0"), Err(Errno::EINVAL));
    assert_eq!(t.write(Sysctl::IpForward, b"7 8 9"), Ok(()));
    assert_eq!(t.read(Sysctl::IpForward), "7\n");
    assert_eq!(t.write(Sysctl::IpForward, b"0x10"), Ok(()));
    assert_eq!(t.read(Sysctl::IpForward), "16\n");
    assert_eq!(t.write(Sysctl::TcpSack, b"-1"), Err(Errno::EINVAL));
    assert_eq!(t.write(Sysctl::TcpSack, b"0000000000000000000001"), Err(Errno::EINVAL));
}

#[test]
fn vectors_keep_what_is_not_given() {
    let mut t = SysctlTable::default();
    assert_eq!(t.write(Sysctl::TcpRmem, b"4096 131072 6291456"), Ok(()));
    assert_eq!(t.write(Sysctl::TcpRmem, b"\t3\t4\n"), Ok(()));
    assert_eq!(t.read(Sysctl::TcpRmem), "3\t4\t6291456\n");
    assert_eq!(t.write(Sysctl::IpLocalPortRange, b"9 5"), Err(Errno::EINVAL));
    assert_eq!(t.write(Sysctl::IpLocalPortRange, b"1000 2000"), Err(Errno::EINVAL));
    assert_eq!(t.write(Sysctl::IpLocalPortRange, b"1024"), Err(Errno::EINVAL));
    assert_eq!(t.write(Sysctl::IpLocalPortRange, b"1024 2048"), Ok(()));
    assert_eq!(t.read(Sysctl::IpLocalPortRange), "1024\t2048\n");
    assert_eq!(t.write(Sysctl::IpUnprivilegedPortStart, b"1025"), Err(Errno::EINVAL));
    assert_eq!(t.write(Sysctl::PingGroupRange, b"5 2"), Ok(()));
    assert_eq!(t.read(Sysctl::PingGroupRange), "1\t0\n");
}

#[test]
fn texts_have_their_own_rules() {
    let mut t = SysctlTable::default();
    assert_eq!(t.write(Sysctl::TcpCongestionControl, b"nope"), Err(Errno::ENOENT));
    assert_eq!(t.write(Sysctl::TcpCongestionControl, b"reno\n"), Ok(()));
    assert_eq!(t.read(Sysctl::TcpCongestionControl), "reno\n");
    for (text, read) in [("1,2,5-7\n", "1-2,5-7\n"), ("0x10", "16\n"), ("\n", "\n"), ("9-11,10", "9-11\n")] {
        assert_eq!(t.write(Sysctl::IpLocalReservedPorts, text.as_bytes()), Ok(()));
        assert_eq!(t.read(Sysctl::IpLocalReservedPorts), read);
    }
    for bad in ["65536", "x", "1 2", "7-5", " 7 "] {
        assert_eq!(t.write(Sysctl::IpLocalReservedPorts, bad.as_bytes()), Err(Errno::EINVAL), "{bad}");
    }
    assert_eq!(t.write(Sysctl::TcpFastopenKey, b"1-2-3-4"), Ok(()));
    assert_eq!(t.read(Sysctl::TcpFastopenKey), "00000001-00000002-00000003-00000004\n");
    assert_eq!(t.write(Sysctl::TcpFastopenKey, b"1-2-3"), Err(Errno::EINVAL));
    assert_eq!(t.write(Sysctl::RpsDefaultMask, b"5"), Err(Errno::EOVERFLOW));
}

#[test]
fn paths_are_unique_and_sorted_out() {
    let mut paths: Vec<_> = Sysctl::DEFS.iter().map(|d| d.path).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), Sysctl::ALL.len());
    assert_eq!(Sysctl::by_path("ipv4/ip_forward"), Some(Sysctl::IpForward));
    assert_eq!(Sysctl::by_path("ipv4/nope"), None);
}

#[test]
fn no_bytes_make_it_panic() {
    let mut t = SysctlTable::default();
    for s in Sysctl::ALL {
        for data in
            [&b"\xff\xfe"[..], b"-", b"--1", b"0x", b",", b"-,-", b"1-", b"\0", b" ", b"-9223372036854775808"]
        {
            let _ = t.write(*s, data);
        }
    }
}
