//! Bytes of programs never panic.

use proptest::prelude::*;

use super::*;

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(0u8), Just(2), Just(10), any::<u8>()], 0..max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn socket_calls_never_panic(
        kind in 0usize..9,
        calls in proptest::collection::vec((0u8..10, bytes(150), prop_oneof![Just(0i32), Just(1), Just(6), Just(17), Just(41), Just(58), Just(255), Just(263)], 0i32..110), 1..25),
    ) {
        let mut l = Lab::new();
        let a = l.a;
        let (f, t, p) = [(2, 1, 0), (10, 1, 0), (2, 2, 0), (10, 2, 0), (2, 3, 1), (10, 3, 58), (17, 3, 768), (17, 2, 768), (2, 3, 255)][kind];
        let s = l.socket(a, f, t, p).unwrap();
        for (what, b, level, name) in calls {
            let mut addr = b.clone();
            if let Some(x) = addr.first_chunk_mut::<2>() {
                *x = (f as u16).to_ne_bytes();
            }
            match what {
                0 => drop(l.bind(s, &addr)),
                1 => drop(l.connect(s, &addr)),
                2 => {
                    let mut ctl = (b.len() as u64).to_ne_bytes().to_vec();
                    ctl.extend_from_slice(&level.to_ne_bytes());
                    ctl.extend_from_slice(&name.to_ne_bytes());
                    ctl.extend_from_slice(b.get(16..).unwrap_or(&[]));
                    let _ = l.send(s, &addr, b"12345678abcdefgh", &ctl);
                }
                3 => drop(l.send(s, &sin("10.0.0.1", 9), b"\x08\0\0\0\0\0\0\0payload", &b)),
                4 | 5 => drop(l.set(s, level, name, &b)),
                6 => drop(l.k.getsockopt(s, level, name, b.len())),
                7 => drop(l.recv(s, level | name)),
                8 => {
                    let mut arg = b.clone();
                    arg.resize(40, 0);
                    drop(l.ioctl(s, 0x8900 + name as u32, &arg));
                }
                _ => drop(l.k.listen(s, 1)),
            }
            l.run();
        }
        l.k.close(s);
        l.k.ns_destroy(a);
    }
}
