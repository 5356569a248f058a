//! The packet scripts on the running kernel and on ferronet: both must do what the script says, and the same beyond.
//!
//! `FERRONET_RECORD=DIR cargo test -p ferronet-host --test packet_twin NAME` writes `DIR/NAME.pkt`: the script with
//! what the kernel answered.

mod kernel;

use std::time::Duration;

use ferronet_sim::need;
use ferronet_sim::script::ours::Ferronet;
use ferronet_sim::script::{Kind, Script, Tolerance, Trace, check, compare, load, play, record};

/// The kernel's timers tick at 4 ms; so does what follows from them.
const KERNEL: Tolerance = Tolerance(Duration::from_millis(14));
const OURS: Tolerance = Tolerance(Duration::from_millis(6));

/// An input later than this may have changed what the kernel did: the machine was busy, and the play does not count.
const LATE: Duration = Duration::from_millis(6);
/// Plays on the kernel at most.
const PLAYS: usize = 5;

fn on_the_kernel(script: &Script) -> Result<Trace, String> {
    std::thread::scope(|s| s.spawn(|| play(script, &mut kernel::Kernel::new()?)).join().expect("no panic"))
}

/// Whether an input came late although the one before was in time.
fn late(script: &Script, t: &Trace) -> bool {
    t.items.iter().any(|it| match it.step.and_then(|i| script.steps.get(i)) {
        Some(s) => it.kind != Kind::Out && it.at > s.at + LATE,
        None => false,
    })
}

fn twin(name: &str) {
    if !need::root(name) || need::program(name, "ip").is_none() || !need::device(name, "/dev/net/tun") {
        return;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !release.starts_with("6.18.") {
        need::skip(name, &format!("compares with Linux 6.18, this is {}", release.trim()));
        return;
    }
    let script = load(name).unwrap_or_else(|e| panic!("{e}"));
    let mut theirs = on_the_kernel(&script).unwrap_or_else(|e| panic!("{e}"));
    for _ in 1..PLAYS {
        // A short delay elsewhere can change what the kernel measures, and with it what it sends.
        if !late(&script, &theirs) && check(&script, &theirs, KERNEL).is_ok() {
            break;
        }
        theirs = on_the_kernel(&script).unwrap_or_else(|e| panic!("{e}"));
    }
    if let Some(dir) = std::env::var_os("FERRONET_RECORD") {
        let path = std::path::Path::new(&dir).join(format!("{name}.pkt"));
        std::fs::write(&path, record(&script, &theirs)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let ours = play(&script, &mut Ferronet::new(1)).unwrap_or_else(|e| panic!("{e}"));
    if let Err(e) = check(&script, &theirs, KERNEL) {
        panic!("the script does not say what Linux does: {e}");
    }
    let differ = [
        compare(&script, ("ferronet", &ours), ("Linux", &theirs), KERNEL),
        check(&script, &ours, OURS).map_err(|e| format!("on ferronet: {e}")),
    ];
    let wrong: Vec<String> = differ.into_iter().filter_map(Result::err).collect();
    match &script.setup.known {
        Some(what) if wrong.is_empty() => panic!("{name}: no longer differs, take `known {what}` out of it"),
        Some(what) => println!("{name}: known difference: {what}\n{}", wrong.join("\n")),
        None => assert!(wrong.is_empty(), "{}", wrong.join("\n")),
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            twin(stringify!($name));
        })*
    };
}
ferronet_sim::for_each_script!(tests);
