//! Every packet script on ferronet, in simulated time. The same scripts run on a real kernel beside it in
//! `crates/host/tests/packet_twin.rs`.

use std::time::Duration;

use ferronet_sim::script::ours::Ferronet;
use ferronet_sim::script::{ALL, Tolerance, check, load, play};

const TOL: Tolerance = Tolerance(Duration::from_millis(6));

fn holds(name: &str) {
    let r = load(name).and_then(|s| {
        let t = play(&s, &mut Ferronet::new(1))?;
        // What is known to differ must run all the same; the twin holds the difference.
        if s.setup.known.is_some() { Ok(()) } else { check(&s, &t, TOL) }
    });
    if let Err(e) = r {
        panic!("{e}");
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*
    };
}
ferronet_sim::for_each_script!(tests);

#[test]
fn every_script_in_the_directory_is_listed() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let files = std::fs::read_dir(dir).expect("the scripts").flatten();
    let mut found: Vec<String> =
        files.filter_map(|f| f.path().file_stem().map(|s| s.to_string_lossy().into_owned())).collect();
    found.sort();
    let mut listed: Vec<&str> = ALL.to_vec();
    listed.sort_unstable();
    assert_eq!(found, listed);
}
