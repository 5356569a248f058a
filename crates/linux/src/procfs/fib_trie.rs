//! `/proc/net/{fib_trie,fib_triestat}`: IPv4 tables as a level-compressed trie.
//!
//! Our lookup uses another structure (`stack::fib::Lpm`); the level-compressed trie of the kernel (Nilsson and
//! Karlsson, "IP-address lookup using LC-tries", 1999, with the thresholds of `net/ipv4/fib_trie.c`) is built here
//! for the reader of these two files, from the same routes in order of address.

use core::fmt::Write as _;
use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;

use ferronet_stack::Namespace;
use ferronet_stack::fib::{Family, Fib, FibEntry, RouteType, table_id};

use crate::kernel::Kernel;

type Id = usize;
const NIL: Id = usize::MAX;
/// Inflations and halvings in one pass (`MAX_WORK`).
const MAX_WORK: u32 = 10;
/// Fill in percent at which an inner node grows and shrinks, and likewise for the root.
const INFLATE: [usize; 2] = [50, 30];
const HALVE: [usize; 2] = [25, 15];
/// Bytes of a leaf, an alias, an inner node and a pointer in the kernel.
const SIZES: [usize; 4] = [48, 56, 40, 8];

enum Node {
    Leaf {
        key: u32,
    },
    /// `key` above `pos + bits`; child `i` has `i` in the `bits` bits from `pos` on.
    Inner {
        key: u32,
        pos: u32,
        bits: u32,
        children: Vec<Id>,
    },
}

struct Trie {
    nodes: Vec<Node>,
    parents: Vec<Id>,
    root: Id,
}

impl Trie {
    fn build(keys: impl Iterator<Item = u32>) -> Trie {
        let mut t = Trie { nodes: Vec::new(), parents: Vec::new(), root: NIL };
        for k in keys {
            t.insert(k);
        }
        t
    }

    fn add(&mut self, n: Node) -> Id {
        self.nodes.push(n);
        self.parents.push(NIL);
        self.nodes.len() - 1
    }

    fn inner(&mut self, key: u32, pos: u32, bits: u32) -> Id {
        let shift = pos + bits;
        let key = if shift >= 32 { 0 } else { key >> shift << shift };
        self.add(Node::Inner { key, pos, bits, children: vec![NIL; 1 << bits] })
    }

    fn key(&self, n: Id) -> u32 {
        match self.nodes.get(n) {
            Some(Node::Leaf { key } | Node::Inner { key, .. }) => *key,
            None => 0,
        }
    }

    /// Position and width; `None` for a leaf.
    fn span(&self, n: Id) -> Option<(u32, u32)> {
        match self.nodes.get(n)? {
            Node::Leaf { .. } => None,
            Node::Inner { pos, bits, .. } => Some((*pos, *bits)),
        }
    }

    fn children(&self, n: Id) -> &[Id] {
        match self.nodes.get(n) {
            Some(Node::Inner { children, .. }) => children,
            Some(Node::Leaf { .. }) | None => &[],
        }
    }

    /// The slot of `key` in an inner node; `None` when its prefix differs.
    fn index(&self, n: Id, key: u32) -> Option<usize> {
        let (pos, bits) = self.span(n)?;
        let i = u64::from(key ^ self.key(n)) >> pos;
        (i >> bits == 0).then_some(i as usize)
    }

    fn set(&mut self, n: Id, i: usize, child: Id) {
        if let Some(Node::Inner { children, .. }) = self.nodes.get_mut(n)
            && let Some(slot) = children.get_mut(i)
        {
            *slot = child;
        }
        self.set_parent(child, n);
    }

    fn set_parent(&mut self, n: Id, parent: Id) {
        if let Some(p) = self.parents.get_mut(n) {
            *p = parent;
        }
    }

    fn parent(&self, n: Id) -> Id {
        self.parents.get(n).copied().unwrap_or(NIL)
    }

    /// Puts `new` where `old` was below `parent` (`NIL`: the root).
    fn replace(&mut self, parent: Id, key: u32, new: Id) {
        match self.index(parent, key) {
            Some(i) => self.set(parent, i, new),
            None => {
                self.root = new;
                self.set_parent(new, NIL);
            }
        }
    }

    /// A child that continues exactly where the node ends.
    fn is_full(&self, n: Id, child: Id) -> bool {
        match (self.span(n), self.span(child)) {
            (Some((pos, _)), Some((p, b))) => p + b == pos,
            _ => false,
        }
    }

    fn empty(&self, n: Id) -> usize {
        self.children(n).iter().filter(|c| **c == NIL).count()
    }

    fn full(&self, n: Id) -> usize {
        self.children(n).iter().filter(|c| self.is_full(n, **c)).count()
    }

    fn insert(&mut self, key: u32) {
        let (mut parent, mut at) = (NIL, self.root);
        while at != NIL {
            let Some(i) = self.index(at, key) else { break };
            parent = at;
            at = self.children(at).get(i).copied().unwrap_or(NIL);
        }
        if at != NIL {
            let other = self.key(at);
            if other == key && self.span(at).is_none() {
                return;
            }
            let pos = 31 - (key ^ other).leading_zeros().min(31);
            let joint = self.inner(key, pos, 1);
            let side = self.index(joint, key).unwrap_or(0);
            self.set(joint, side ^ 1, at);
            self.replace(parent, key, joint);
            parent = joint;
        }
        let leaf = self.add(Node::Leaf { key });
        self.replace(parent, key, leaf);
        while parent != NIL {
            parent = self.resize(parent);
        }
    }

    /// Grows or shrinks a node as its fill demands; returns its parent.
    fn resize(&mut self, n: Id) -> Id {
        let (parent, key) = (self.parent(n), self.key(n));
        let at = |t: &Trie| match t.index(parent, key) {
            Some(i) => t.children(parent).get(i).copied().unwrap_or(NIL),
            None => t.root,
        };
        let root = usize::from(parent == NIL);
        let (mut n, mut work) = (n, MAX_WORK);
        while work > 0 && self.should_inflate(n, root) {
            self.inflate(n);
            work -= 1;
            n = at(self);
        }
        if work != MAX_WORK {
            return parent;
        }
        while work > 0 && self.should_halve(n, root) {
            self.halve(n);
            work -= 1;
            n = at(self);
        }
        if self.span(n).is_some() && self.children(n).len() - self.empty(n) < 2 {
            let only = self.children(n).iter().copied().find(|c| *c != NIL).unwrap_or(NIL);
            self.replace(parent, key, only);
        }
        parent
    }

    fn should_inflate(&self, n: Id, root: usize) -> bool {
        let Some((pos, _)) = self.span(n) else { return false };
        let slots = self.children(n).len();
        let used = slots - self.empty(n) + self.full(n);
        // Fill after doubling: what is full fills two slots.
        used > 1 && pos > 0 && 50 * used >= slots * INFLATE.get(root).copied().unwrap_or(50)
    }

    fn should_halve(&self, n: Id, root: usize) -> bool {
        let Some((_, bits)) = self.span(n) else { return false };
        let slots = self.children(n).len();
        let used = slots - self.empty(n);
        used > 1 && bits > 1 && 100 * used < slots * HALVE.get(root).copied().unwrap_or(25)
    }

    /// One bit more: full children are split, others find their new slot.
    fn inflate(&mut self, old: Id) {
        let Some((pos, bits)) = self.span(old) else { return };
        let new = self.inner(self.key(old), pos - 1, bits + 1);
        for (i, c) in self.children(old).to_vec().into_iter().enumerate() {
            if c == NIL {
                continue;
            }
            let (key, grand) = (self.key(c), self.children(c).to_vec());
            match self.span(c) {
                Some((_, 1)) if self.is_full(old, c) => {
                    for (side, g) in grand.into_iter().enumerate() {
                        self.set(new, 2 * i + side, g);
                    }
                }
                Some((p, b)) if self.is_full(old, c) => {
                    let half = grand.len() / 2;
                    for (side, part) in grand.chunks(half).enumerate() {
                        let child = self.inner(key | (side as u32) << (p + b - 1), p, b - 1);
                        for (j, g) in part.iter().enumerate() {
                            self.set(child, j, *g);
                        }
                        self.set(new, 2 * i + side, child);
                    }
                }
                Some(_) | None => {
                    if let Some(i) = self.index(new, key) {
                        self.set(new, i, c);
                    }
                }
            }
        }
        self.finish(old, new);
    }

    /// One bit less: neighbours share a node.
    fn halve(&mut self, old: Id) {
        let Some((pos, bits)) = self.span(old) else { return };
        let new = self.inner(self.key(old), pos + 1, bits - 1);
        for (i, pair) in self.children(old).to_vec().chunks(2).enumerate() {
            match *pair {
                [NIL, NIL] => {}
                [a, NIL] | [NIL, a] => self.set(new, i, a),
                [a, b] => {
                    let child = self.inner(self.key(a), pos, 1);
                    self.set(child, 0, a);
                    self.set(child, 1, b);
                    self.set(new, i, child);
                }
                _ => {}
            }
        }
        self.finish(old, new);
    }

    fn finish(&mut self, old: Id, new: Id) {
        let (parent, key) = (self.parent(old), self.key(old));
        self.replace(parent, key, new);
        for c in self.children(new).to_vec().into_iter().rev() {
            if self.is_full(new, c) {
                self.resize(c);
            }
        }
    }

    /// All nodes in order, with their depth.
    fn walk(&self, f: &mut dyn FnMut(Id, usize)) {
        let mut stack = vec![(self.root, 0)];
        while let Some((n, depth)) = stack.pop() {
            if n == NIL {
                continue;
            }
            f(n, depth);
            stack.extend(self.children(n).iter().rev().map(|c| (*c, depth + 1)));
        }
    }
}

/// The routes of a table by address, in the order of the aliases of a leaf: longer prefixes, then the local table,
/// then type of service and metric.
type Leaves<'a> = BTreeMap<u32, Vec<&'a FibEntry>>;

/// The tables as the kernel shows them: one trie for main and local until a rule is added (`fib_unmerge`).
fn tables(ns: &Namespace) -> Vec<(String, Leaves<'_>)> {
    let fresh = Fib::new();
    let merged = ns.fib.rules(Family::V4).eq(fresh.rules(Family::V4));
    let name = |id| match id {
        table_id::MAIN => "Main:".to_owned(),
        table_id::LOCAL => "Local:".to_owned(),
        _ => format!("Id {id}:"),
    };
    let shared = |id| matches!(id, table_id::MAIN | table_id::LOCAL);
    ns.fib
        .tables(Family::V4)
        .map(|(id, _)| {
            let mut leaves: Leaves<'_> = BTreeMap::new();
            let parts =
                ns.fib.tables(Family::V4).filter(|(i, _)| *i == id || (merged && shared(*i) && shared(id)));
            for e in parts.flat_map(|(_, t)| t.iter()) {
                if let IpAddr::V4(a) = e.dst {
                    leaves.entry(a.to_bits()).or_default().push(e);
                }
            }
            for l in leaves.values_mut() {
                use core::cmp::Reverse;
                l.sort_by_key(|e| (Reverse(e.dst_len), Reverse(e.table), Reverse(e.tos), e.priority));
            }
            (name(id), leaves)
        })
        .filter(|(_, l)| !l.is_empty())
        .collect()
}

fn kind(k: RouteType) -> &'static str {
    match k {
        RouteType::Unicast => "UNICAST",
        RouteType::Local => "LOCAL",
        RouteType::Broadcast => "BROADCAST",
        RouteType::Anycast => "ANYCAST",
        RouteType::Multicast => "MULTICAST",
        RouteType::Blackhole => "BLACKHOLE",
        RouteType::Unreachable => "UNREACHABLE",
        RouteType::Prohibit => "PROHIBIT",
        RouteType::Throw => "THROW",
    }
}

fn scope_name(s: u8) -> String {
    match s {
        0 => "universe".to_owned(),
        200 => "site".to_owned(),
        253 => "link".to_owned(),
        254 => "host".to_owned(),
        255 => "nowhere".to_owned(),
        n => format!("scope={n}"),
    }
}

/// `fib_trie_seq_show`.
pub(super) fn fib_trie(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let mut s = String::new();
    for (name, leaves) in tables(ns) {
        let _ = writeln!(s, "{name}");
        let t = Trie::build(leaves.keys().copied());
        t.walk(&mut |n, depth| {
            let (key, indent) = (Ipv4Addr::from_bits(t.key(n)), "   ".repeat(depth));
            if let Some((pos, bits)) = t.span(n) {
                let (full, empty) = (t.full(n), t.empty(n));
                let _ = writeln!(s, "{indent}  +-- {key}/{} {bits} {full} {empty}", 32 - pos - bits);
                return;
            }
            let _ = writeln!(s, "{indent}  |-- {key}");
            for e in leaves.get(&key.to_bits()).into_iter().flatten() {
                let tos = if e.tos == 0 { String::new() } else { format!(" tos={}", e.tos) };
                let _ =
                    writeln!(s, "{indent}     /{} {} {}{tos}", e.dst_len, scope_name(e.scope), kind(e.kind));
            }
        });
    }
    s.into_bytes()
}

/// `fib_triestat_seq_show`.
pub(super) fn fib_triestat(_k: &Kernel, ns: &Namespace) -> Vec<u8> {
    let [leaf, alias, inner, pointer] = SIZES;
    let mut s = format!("Basic info: size of leaf: {leaf} bytes, size of tnode: {inner} bytes.\n");
    for (name, leaves) in tables(ns) {
        let t = Trie::build(leaves.keys().copied());
        let (mut total_depth, mut max_depth, mut inner_nodes, mut pointers, mut null) = (0, 0, 0, 0, 0);
        let mut by_bits: BTreeMap<u32, u32> = BTreeMap::new();
        t.walk(&mut |n, depth| match t.span(n) {
            Some((_, bits)) => {
                inner_nodes += 1;
                *by_bits.entry(bits).or_default() += 1;
                pointers += 1usize << bits;
                null += t.empty(n);
            }
            None => {
                total_depth += depth;
                max_depth = max_depth.max(depth);
            }
        });
        let n = leaves.len();
        let prefixes: usize = leaves.values().map(Vec::len).sum();
        let average = (total_depth * 100).checked_div(n).unwrap_or(0);
        let sizes: String = by_bits.iter().map(|(b, c)| format!("  {b}: {c}")).collect();
        let bytes = n * leaf + prefixes * alias + inner_nodes * inner + pointers * pointer;
        let _ = write!(
            s,
            "{name}\n\tAver depth:     {}.{:02}\n\tMax depth:      {max_depth}\n\tLeaves:         {n}\n\t\
             Prefixes:       {prefixes}\n\tInternal nodes: {inner_nodes}\n\t{sizes}\n\tPointers: {pointers}\n\
             Null ptrs: {null}\nTotal size: {}  kB\n",
            average / 100,
            average % 100,
            bytes.div_ceil(1024)
        );
    }
    s.into_bytes()
}
