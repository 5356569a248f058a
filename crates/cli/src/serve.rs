//! What a running session answers to `ps`, `drops`, `trace` and `exec` of other terminals and of its own programs.
//!
//! A request is a list of words; the answer is lines of JSON (`info`, `namespaces`, `drops`, and one line for each
//! packet's way for `trace`).

use crate::trace::{collect::Collector, filter};
use ferronet_core::NsId;
use ferronet_host::control::Served;
use ferronet_host::{NetnsNames, Session};
use ferronet_linux::Kernel;
use serde_json::json;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Names of the namespaces: those bound below /run/netns, `main` for the first one, `ns5` for others.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    bound: NetnsNames,
    first: NsId,
}

impl Names {
    /// For a session.
    pub(crate) fn new(session: &Session) -> Names {
        Names { bound: session.netns_names(), first: session.first_ns() }
    }

    /// The present names.
    pub(crate) fn read(&self, kernel: &Kernel) -> BTreeMap<NsId, String> {
        let mut names: BTreeMap<NsId, String> = kernel
            .world
            .iter()
            .map(|n| {
                (n.id, if n.id == self.first { "main".to_owned() } else { format!("ns{}", n.id.index()) })
            })
            .collect();
        for (name, ino) in self.bound.read() {
            if let Some(id) = kernel.ns_by_cookie(ino) {
                names.insert(id, name);
            }
        }
        names
    }
}

/// Makes a session answer.
pub(crate) fn install(session: &mut Session, what: &str) {
    let names = Names::new(session);
    let what = what.to_owned();
    let name = session.name().unwrap_or_default().to_owned();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let tracing = Rc::new(Cell::new(false));
    let (wanted, mut recording) = (tracing.clone(), false);
    // Recording follows the wish, in namespaces made later too; a terminal that went away ends it.
    session.after_turn(Box::new(move |kernel| {
        if wanted.get() || recording {
            recording = wanted.get();
            record(kernel, recording);
        }
    }));
    session.on_request(Box::new(move |kernel, words, out| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["info"] => {
                let namespaces: Vec<String> = names.read(kernel).into_values().collect();
                line(out, &json!({"name": name, "pid": std::process::id(), "what": what, "started": started, "namespaces": namespaces}));
                Served::Done(0)
            }
            ["drops"] => {
                drops(kernel, &names, out);
                Served::Done(0)
            }
            ["trace", rest @ ..] => trace(&names, &tracing, rest, out),
            _ => Served::Unknown,
        }
    }));
}

fn line(out: &mut Vec<u8>, value: &serde_json::Value) {
    out.extend_from_slice(value.to_string().as_bytes());
    out.push(b'\n');
}

/// Switches recording in all namespaces.
fn record(kernel: &mut Kernel, on: bool) {
    let ids: Vec<NsId> = kernel.world.iter().filter(|n| n.env.trace.enabled() != on).map(|n| n.id).collect();
    for id in ids {
        if let Some(ns) = kernel.world.ns_mut(id) {
            ns.env.trace.enable(on);
        }
    }
}

/// One line for each namespace and reason.
fn drops(kernel: &Kernel, names: &Names, out: &mut Vec<u8>) {
    let names = names.read(kernel);
    for ns in kernel.world.iter() {
        for (reason, packets) in ns.env.drops.iter() {
            line(
                out,
                &json!({
                    "namespace": names.get(&ns.id), "reason": reason.name(), "packets": packets,
                    "meaning": reason.meaning(), "setting": reason.tunable(),
                }),
            );
        }
    }
}

/// Starts a stream of ways. The records are taken out of the stack, so only one terminal can look at a time.
fn trace(names: &Names, tracing: &Rc<Cell<bool>>, words: &[&str], out: &mut Vec<u8>) -> Served {
    let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
    let filter = match filter::parse(&words) {
        Ok(f) => f,
        Err(e) => {
            line(out, &json!({"error": e}));
            return Served::Done(2);
        }
    };
    if tracing.replace(true) {
        line(out, &json!({"error": "another terminal is tracing this stack already"}));
        return Served::Done(1);
    }
    let mut collector = Collector::new(names.clone(), filter, Guard(tracing.clone()));
    Served::Stream(Box::new(move |kernel, out| {
        for way in collector.turn(kernel) {
            line(out, &way.json());
        }
        true
    }))
}

/// Says that nobody traces any more when the stream ends, in whatever way.
#[derive(Debug)]
pub(crate) struct Guard(Rc<Cell<bool>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
