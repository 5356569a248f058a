//! The kit itself: reading, playing, and what its failures say.

use core::time::Duration;

use super::ours::Ferronet;
use super::{Script, Tolerance, check, compare, play};

const TOL: Tolerance = Tolerance(Duration::from_millis(5));

const ECHO: &str = "# echo\n+0 < icmp 8/0 id 7 seq 1 (56)\n+0 > icmp 0/0 id 7 seq 1 (56)\n";

fn run(text: &str) -> Result<(), String> {
    let s = Script::parse("t", text)?;
    let t = play(&s, &mut Ferronet::new(1))?;
    check(&s, &t, TOL)
}

#[test]
fn a_script_holds_or_says_what_differs() {
    assert_eq!(run(ECHO), Ok(()));
    let e = run(&ECHO.replace("> icmp 0/0 id 7", "> icmp 0/0 id 8")).unwrap_err();
    assert!(e.starts_with("t:3: at 0.000 s\n    expected > icmp 0/0 id 8"), "{e}");
    assert!(e.contains("id: expected 8, actual 7"), "{e}");
    let e = run("+0 < icmp 8/0 id 7 seq 1 (56)\n+1\n").unwrap_err();
    assert!(e.contains("unexpected at    0.000: > [ttl 64"), "{e}");
    let e = run(&ECHO.replace("+0 >", "+0.2 >")).unwrap_err();
    assert!(e.contains("time: expected    0.200, actual    0.000"), "{e}");
    let e = run("+0 > icmp 0/0 id 7 seq 1 (56)\n").unwrap_err();
    assert!(e.contains("actual nothing until the end"), "{e}");
}

#[test]
fn mistakes_in_a_script_name_their_line() {
    for (text, want) in [
        ("\n+0 < S 0:0(0) <mss x>", "t:2: option `mss x`"),
        ("+0 s: bind", "t:1: an address is missing"),
        ("+1 s: socket tcp\n0.5 s: close", "t:2: time goes back"),
        ("flow 1 2 3", "t:1: "),
        ("+0 what", "t:1: `what` is no step"),
        ("+0 c: send 1", "t:1: no socket `c`"),
    ] {
        let e = run(text).unwrap_err();
        assert!(e.starts_with(want), "{e}");
    }
}

#[test]
fn two_traces_are_shown_side_by_side() {
    let s = Script::parse("t", ECHO).unwrap();
    let a = play(&s, &mut Ferronet::new(1)).unwrap();
    let mut b = play(&s, &mut Ferronet::new(2)).unwrap();
    assert_eq!(compare(&s, ("ferronet", &a), ("Linux", &b), TOL), Ok(()));
    b.items[1].text = "> icmp 3/3".to_owned();
    b.counters.insert("IcmpOutMsgs".to_owned(), 3);
    let e = compare(&s, ("ferronet", &a), ("Linux", &b), TOL).unwrap_err();
    assert!(e.contains(" = ") && e.contains(" !    0.000 > icmp 3/3") && e.contains("IcmpOutMsgs 3"), "{e}");
}

#[test]
fn recording_gives_the_script_back() {
    let s = Script::parse("t", ECHO).unwrap();
    let t = play(&s, &mut Ferronet::new(1)).unwrap();
    let r = super::record(&s, &t);
    assert_eq!(run(&r), Ok(()), "{r}");
    assert_eq!(r.lines().count(), 3, "{r}");
}
