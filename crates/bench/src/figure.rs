//! One JSON object per figure on standard output, for `cargo xtask bench`.
#![allow(dead_code, reason = "each bench binary uses a part of this")]

use serde_json::json;

/// Prints a figure; `goal` is (at least?, value).
pub(crate) fn figure(group: &str, name: &str, value: f64, unit: &str, goal: Option<(bool, f64)>) {
    let mut v = json!({"group": group, "name": name, "value": value, "unit": unit});
    if let Some((at_least, g)) = goal {
        v["goal"] = json!(format!("{} {g} {unit}", if at_least { ">=" } else { "<=" }));
        v["met"] = json!(if at_least { value >= g } else { value <= g });
    }
    println!("{v}");
}

/// Prints a figure with a peer's in the same run; the goal is a ratio.
pub(crate) fn against(group: &str, name: &str, value: f64, unit: &str, peer: (&str, f64), goal: f64) {
    let ratio = value / peer.1;
    let v = json!({"group": group, "name": name, "value": value, "unit": unit, "peer": peer.0,
        "peer_value": peer.1, "ratio": ratio, "goal": format!(">= {goal} x"), "met": ratio >= goal});
    println!("{v}");
}

/// Prints a figure with a peer's in the same run, without a goal.
pub(crate) fn beside(group: &str, name: &str, value: f64, unit: &str, peer: (&str, f64)) {
    let v = json!({"group": group, "name": name, "value": value, "unit": unit, "peer": peer.0,
        "peer_value": peer.1, "ratio": value / peer.1});
    println!("{v}");
}

/// Says why a figure was not measured.
pub(crate) fn not_measured(group: &str, name: &str, why: &str) {
    println!("{}", json!({"group": group, "name": name, "why": why}));
}

/// The middle one.
pub(crate) fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
