//! Longest-prefix match: a path-compressed binary trie in one arena.
//!
//! Keys are left-aligned in 128 bits for both families. A lookup visits at most one node per branching
//! bit; nodes are 40 bytes and live in one `Vec`, so a million prefixes take about 80 MB with their values.

use core::cmp::Reverse;

const NIL: u32 = u32::MAX;

/// Where a prefix stands in a dump: an address, then longer prefixes first.
pub type Place = (u128, Reverse<u8>);

/// In which order a table is dumped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DumpOrder {
    /// By the first address of the prefix (IPv4).
    ByKey,
    /// By the last address: what lies inside a prefix comes before it (IPv6).
    InsideFirst,
}

impl DumpOrder {
    fn place(self, key: u128, len: u8) -> Place {
        match self {
            DumpOrder::ByKey => (key, Reverse(len)),
            DumpOrder::InsideFirst => (last(key, len), Reverse(len)),
        }
    }
}

/// The last address of a prefix.
fn last(key: u128, len: u8) -> u128 {
    key | u128::MAX.checked_shr(u32::from(len)).unwrap_or(0)
}

/// A step of a dump.
enum Step {
    Visit(u32),
    Emit(u32),
}

#[derive(Debug)]
struct Node<V> {
    /// Prefix bits, left-aligned, zero beyond `len`.
    key: u128,
    len: u8,
    children: [u32; 2],
    value: Option<V>,
}

/// The trie. `V` is what a prefix maps to.
#[derive(Debug)]
pub struct Lpm<V> {
    nodes: Vec<Node<V>>,
    free: Vec<u32>,
    root: u32,
    len: usize,
}

impl<V> Default for Lpm<V> {
    fn default() -> Self {
        Lpm { nodes: Vec::new(), free: Vec::new(), root: NIL, len: 0 }
    }
}

#[inline]
fn mask(key: u128, len: u8) -> u128 {
    if len == 0 { 0 } else { key & (u128::MAX << (128 - u32::from(len))) }
}
#[inline]
fn bit(key: u128, at: u8) -> usize {
    if at >= 128 { 0 } else { (key >> (127 - u32::from(at))) as usize & 1 }
}

impl<V> Lpm<V> {
    /// Number of prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn node(&mut self, key: u128, len: u8, value: Option<V>) -> u32 {
        let n = Node { key, len, children: [NIL; 2], value };
        if let Some(i) = self.free.pop() {
            self.nodes[i as usize] = n;
            i
        } else {
            self.nodes.push(n);
            (self.nodes.len() - 1) as u32
        }
    }

    fn set_link(&mut self, parent: Option<(u32, usize)>, to: u32) {
        match parent {
            Some((p, side)) => self.nodes[p as usize].children[side] = to,
            None => self.root = to,
        }
    }

    /// The value of exactly this prefix, made by `make` when missing.
    pub fn get_or_insert_with(&mut self, key: u128, len: u8, make: impl FnOnce() -> V) -> &mut V {
        let key = mask(key, len);
        let mut parent = None;
        let mut at = self.root;
        let index = loop {
            if at == NIL {
                let n = self.node(key, len, None);
                self.set_link(parent, n);
                break n;
            }
            let n = &self.nodes[at as usize];
            let common = ((n.key ^ key).leading_zeros() as u8).min(n.len).min(len);
            if common == n.len && common == len {
                break at;
            }
            if common == n.len {
                let side = bit(key, n.len);
                parent = Some((at, side));
                at = n.children[side];
                continue;
            }
            // Split: a node for what both share, with the old one below it.
            let side = bit(n.key, common);
            let joint = self.node(mask(key, common), common, None);
            self.nodes[joint as usize].children[side] = at;
            self.set_link(parent, joint);
            if common == len {
                break joint;
            }
            let leaf = self.node(key, len, None);
            self.nodes[joint as usize].children[1 - side] = leaf;
            break leaf;
        };
        if self.nodes[index as usize].value.is_none() {
            self.len += 1;
        }
        self.nodes[index as usize].value.get_or_insert_with(make)
    }

    /// The value of exactly this prefix.
    #[must_use]
    pub fn get(&self, key: u128, len: u8) -> Option<&V> {
        let key = mask(key, len);
        let mut at = self.root;
        while at != NIL {
            let n = &self.nodes[at as usize];
            if n.len > len || mask(key, n.len) != n.key {
                return None;
            }
            if n.len == len {
                return n.value.as_ref();
            }
            at = n.children[bit(key, n.len)];
        }
        None
    }

    /// Removes a prefix.
    pub fn remove(&mut self, key: u128, len: u8) -> Option<V> {
        let key = mask(key, len);
        let (mut grand, mut parent, mut at) = (None, None, self.root);
        while at != NIL {
            let n = &self.nodes[at as usize];
            if n.len > len || mask(key, n.len) != n.key {
                return None;
            }
            if n.len == len {
                break;
            }
            let side = bit(key, n.len);
            grand = parent;
            parent = Some((at, side));
            at = n.children[side];
        }
        if at == NIL {
            return None;
        }
        let value = self.nodes[at as usize].value.take()?;
        self.len -= 1;
        self.splice(parent, at);
        // The parent may be a bare joint with one child now.
        if let Some((p, _)) = parent
            && self.nodes[p as usize].value.is_none()
        {
            self.splice(grand, p);
        }
        Some(value)
    }

    /// Takes a valueless node with fewer than two children out of its path.
    fn splice(&mut self, parent: Option<(u32, usize)>, at: u32) {
        let [l, r] = self.nodes[at as usize].children;
        if l != NIL && r != NIL {
            return;
        }
        self.set_link(parent, if l == NIL { r } else { l });
        self.free.push(at);
    }

    /// Calls `f` with the values of all prefixes that cover `key`, shortest first; `f` keeps what it likes
    /// best.
    #[inline]
    pub fn matches<'a>(&'a self, key: u128, mut f: impl FnMut(u8, &'a V)) {
        let mut at = self.root;
        while let Some(n) = self.nodes.get(at as usize) {
            if mask(key, n.len) != n.key {
                return;
            }
            if let Some(v) = &n.value {
                f(n.len, v);
            }
            at = n.children[bit(key, n.len)];
        }
    }

    /// The longest prefix that covers `key` and that `accept` does not refuse.
    #[inline]
    #[must_use]
    pub fn lookup<R>(&self, key: u128, mut accept: impl FnMut(&V) -> Option<R>) -> Option<(u8, R)> {
        // At most one valued node per length lies on the path; remember them on the way down.
        let mut stack = smallvec::SmallVec::<[(u8, &V); 8]>::new();
        self.matches(key, |len, v| stack.push((len, v)));
        stack.iter().rev().find_map(|(len, v)| accept(v).map(|r| (*len, r)))
    }

    /// Changes every value.
    pub fn for_each_mut(&mut self, f: impl FnMut(&mut V)) {
        self.nodes.iter_mut().filter_map(|n| n.value.as_mut()).for_each(f);
    }

    /// The prefixes that stand behind `after`, in order; the first is found without a walk over those before.
    pub fn dump(&self, order: DumpOrder, after: Option<Place>) -> impl Iterator<Item = (Place, &V)> {
        let mut stack = vec![Step::Visit(self.root)];
        core::iter::from_fn(move || {
            loop {
                match stack.pop()? {
                    Step::Emit(at) => {
                        let n = self.nodes.get(at as usize)?;
                        let place = order.place(n.key, n.len);
                        match &n.value {
                            Some(v) if after.is_none_or(|a| place > a) => return Some((place, v)),
                            Some(_) | None => {}
                        }
                    }
                    Step::Visit(at) => {
                        let Some(n) = self.nodes.get(at as usize) else { continue };
                        if after.is_none_or(|a| last(n.key, n.len) >= a.0) {
                            self.visit(order, at, &mut stack);
                        }
                    }
                }
            }
        })
    }

    /// Puts what a subtree consists of onto the stack, what comes first last.
    fn visit(&self, order: DumpOrder, at: u32, stack: &mut Vec<Step>) {
        let children = |at: u32| self.nodes[at as usize].children;
        match order {
            DumpOrder::InsideFirst => {
                stack.extend([Step::Emit(at), Step::Visit(children(at)[1]), Step::Visit(children(at)[0])]);
            }
            DumpOrder::ByKey => {
                // The prefixes that begin at the same address, from the shortest down.
                let key = self.nodes[at as usize].key;
                let same = |at: &u32| self.nodes.get(children(*at)[0] as usize).is_some_and(|n| n.key == key);
                let chain = || core::iter::successors(Some(at), |at| same(at).then(|| children(*at)[0]));
                stack.extend(chain().map(|n| Step::Visit(children(n)[1])));
                stack.extend(chain().last().map(|n| Step::Visit(children(n)[0])));
                stack.extend(chain().map(Step::Emit));
            }
        }
    }

    /// All prefixes in order of key, then length.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u8, &V)> {
        let mut stack = vec![self.root];
        core::iter::from_fn(move || {
            loop {
                let at = stack.pop()?;
                let Some(n) = self.nodes.get(at as usize) else { continue };
                stack.push(n.children[1]);
                stack.push(n.children[0]);
                if let Some(v) = &n.value {
                    return Some((n.key, n.len, v));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferronet_core::rng::Rng;
    use std::collections::BTreeMap;

    #[test]
    fn agrees_with_a_naive_table() {
        let mut rng = Rng::new(7);
        for _ in 0..30 {
            let mut trie = Lpm::default();
            let mut naive = BTreeMap::new();
            for n in 0..400u32 {
                let len = (rng.below(33)) as u8;
                // Few distinct bits, so that prefixes nest and collide.
                let key = mask(u128::from(rng.next_u32() & 0x0f0f_0303) << 96, len);
                if rng.below(3) == 0 {
                    assert_eq!(trie.remove(key, len), naive.remove(&(key, len)));
                } else {
                    *trie.get_or_insert_with(key, len, || 0) = n;
                    naive.insert((key, len), n);
                }
                assert_eq!(trie.len(), naive.len());
                let probe = u128::from(rng.next_u32() & 0x0f0f_0303) << 96;
                let want = naive
                    .iter()
                    .filter(|((k, l), _)| mask(probe, *l) == *k)
                    .max_by_key(|((_, l), _)| *l)
                    .map(|((_, l), v)| (*l, *v));
                assert_eq!(trie.lookup(probe, |v| Some(*v)), want);
            }
            let all: Vec<_> = trie.iter().map(|(k, l, v)| ((k, l), *v)).collect();
            for order in [DumpOrder::ByKey, DumpOrder::InsideFirst] {
                let mut sorted: Vec<_> = naive.iter().map(|((k, l), v)| (order.place(*k, *l), *v)).collect();
                sorted.sort_unstable();
                for from in 0..sorted.len() {
                    let after = (from > 0).then(|| sorted[from - 1].0);
                    let dumped = trie.dump(order, after).map(|(p, v)| (p, *v));
                    assert!(dumped.eq(sorted[from..].iter().copied()), "{order:?} from {from}");
                }
            }
            assert_eq!(all, naive.into_iter().collect::<Vec<_>>());
        }
    }
}
