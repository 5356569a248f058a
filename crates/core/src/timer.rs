//! A hierarchical timing wheel: O(1) arm and cancel, exact expiry, deterministic order.

use crate::time::Instant;

/// Slots per level (one bit each in a `u64`).
const SLOTS: usize = 64;
/// Levels: 6 × 6 bits above the granule reach 2^53 ns, about 104 days; later deadlines wait in the top level.
const LEVELS: usize = 6;
/// A granule is 2^17 ns = 131 µs. Expiry is exact all the same: each entry keeps its deadline.
const GRANULE_SHIFT: u32 = 17;
const NIL: u32 = u32::MAX;

/// Names an armed timer. Stale ids are harmless: they carry a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

impl Default for TimerId {
    fn default() -> Self {
        TimerId::NONE
    }
}

impl TimerId {
    /// Names no timer.
    pub const NONE: TimerId = TimerId { index: NIL, generation: 0 };
    /// `true` for [`TimerId::NONE`].
    #[must_use]
    pub fn is_none(self) -> bool {
        self.index == NIL
    }
}

#[derive(Debug)]
struct Entry<T> {
    key: Option<T>,
    deadline: Instant,
    order: u64,
    generation: u32,
    slot: u16,
    prev: u32,
    next: u32,
}

/// The wheel. `T` says whose timer it is.
#[derive(Debug)]
pub struct Timers<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    heads: Box<[[u32; SLOTS]; LEVELS]>,
    occupied: [u64; LEVELS],
    /// Granule up to which the wheel has been turned.
    cursor: u64,
    order: u64,
    due: Vec<u32>,
    armed: usize,
}

impl<T: Copy> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> Timers<T> {
    /// An empty wheel.
    #[must_use]
    pub fn new() -> Self {
        Timers {
            entries: Vec::new(),
            free: Vec::new(),
            heads: Box::new([[NIL; SLOTS]; LEVELS]),
            occupied: [0; LEVELS],
            cursor: 0,
            order: 0,
            due: Vec::new(),
            armed: 0,
        }
    }

    /// How many timers are armed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.armed
    }
    /// `true` when none is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Arms a timer for `deadline`; in the past means at the next [`Timers::expire`].
    pub fn arm(&mut self, deadline: Instant, key: T) -> TimerId {
        self.order += 1;
        let entry = |generation, order| Entry {
            key: Some(key),
            deadline,
            order,
            generation,
            slot: 0,
            prev: NIL,
            next: NIL,
        };
        let index = if let Some(i) = self.free.pop() {
            let generation = self.entries[i as usize].generation;
            self.entries[i as usize] = entry(generation, self.order);
            i
        } else {
            self.entries.push(entry(1, self.order));
            (self.entries.len() - 1) as u32
        };
        self.armed += 1;
        self.link(index);
        TimerId { index, generation: self.entries[index as usize].generation }
    }

    /// Disarms; `true` if it was armed. `id` becomes [`TimerId::NONE`].
    pub fn cancel(&mut self, id: &mut TimerId) -> bool {
        let TimerId { index, generation } = core::mem::take(id);
        match self.entries.get(index as usize) {
            Some(e) if e.generation == generation && e.key.is_some() => {
                self.unlink(index);
                self.release(index);
                true
            }
            _ => false,
        }
    }

    /// Moves a timer to `deadline`, arming it when it was not.
    pub fn rearm(&mut self, id: &mut TimerId, deadline: Instant, key: T) {
        if let Some(e) = self.entries.get(id.index as usize)
            && e.generation == id.generation
            && e.key.is_some()
        {
            if e.deadline == deadline {
                return;
            }
            self.unlink(id.index);
            self.order += 1;
            let e = &mut self.entries[id.index as usize];
            (e.deadline, e.order, e.key) = (deadline, self.order, Some(key));
            self.link(id.index);
        } else {
            *id = self.arm(deadline, key);
        }
    }

    /// When to call [`Timers::expire`] next: never later than the earliest deadline. It may be earlier, when
    /// far timers must move closer; such a call does nothing else.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let mut best: Option<Instant> = None;
        for level in 0..LEVELS {
            if self.occupied[level] == 0 {
                continue;
            }
            let shift = 6 * level as u32;
            let pos = (self.cursor >> shift) % SLOTS as u64;
            let ahead = self.occupied[level].rotate_right(pos as u32).trailing_zeros();
            let t = if level == 0 {
                let slot = (pos as usize + ahead as usize) % SLOTS;
                let mut at = self.heads[0][slot];
                let mut min = Instant::NEVER;
                while at != NIL {
                    let e = &self.entries[at as usize];
                    min = min.min(e.deadline);
                    at = e.next;
                }
                min
            } else {
                let granule = ((self.cursor >> shift) + u64::from(ahead)) << shift;
                Instant(granule << GRANULE_SHIFT)
            };
            best = Some(best.map_or(t, |b| b.min(t)));
        }
        best
    }

    /// Turns the wheel to `now` and appends the keys that are due to `out`, in order of deadline, then of
    /// arming.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<T>) {
        let target = now.0 >> GRANULE_SHIFT;
        loop {
            self.collect_slot((self.cursor % SLOTS as u64) as usize, now);
            if self.cursor >= target {
                break;
            }
            self.advance(target);
        }
        let mut due = core::mem::take(&mut self.due);
        due.sort_unstable_by_key(|&i| {
            let e = &self.entries[i as usize];
            (e.deadline, e.order)
        });
        for i in due.drain(..) {
            if let Some(k) = self.entries[i as usize].key {
                out.push(k);
            }
            self.release(i);
        }
        self.due = due;
    }

    /// Moves the cursor to the next granule that holds something or begins a new round of a level.
    fn advance(&mut self, target: u64) {
        let pos = self.cursor % SLOTS as u64;
        let later = self.occupied[0] & !(u64::MAX >> (63 - pos));
        let step = if later == 0 {
            // Nothing left in this round: on to the next boundary of the lowest level that holds something.
            let level = (1..LEVELS).find(|&l| self.occupied[l] != 0 || self.occupied[0] != 0);
            let Some(level) = level else {
                self.cursor = target;
                return;
            };
            let span = 1u64 << (6 * level);
            span - self.cursor % span
        } else {
            u64::from(later.trailing_zeros()) - pos
        };
        self.cursor = (self.cursor + step).min(target);
        if self.cursor.is_multiple_of(SLOTS as u64) {
            for level in 1..LEVELS {
                self.cascade(level);
                if !(self.cursor >> (6 * level)).is_multiple_of(SLOTS as u64) {
                    break;
                }
            }
        }
    }

    fn cascade(&mut self, level: usize) {
        let slot = ((self.cursor >> (6 * level)) % SLOTS as u64) as usize;
        let mut at = core::mem::replace(&mut self.heads[level][slot], NIL);
        self.occupied[level] &= !(1 << slot);
        while at != NIL {
            let next = self.entries[at as usize].next;
            self.link(at);
            at = next;
        }
    }

    fn collect_slot(&mut self, slot: usize, now: Instant) {
        let mut at = self.heads[0][slot];
        while at != NIL {
            let next = self.entries[at as usize].next;
            if self.entries[at as usize].deadline <= now {
                self.unlink(at);
                self.due.push(at);
            }
            at = next;
        }
    }

    fn link(&mut self, index: u32) {
        let granule = (self.entries[index as usize].deadline.0 >> GRANULE_SHIFT).max(self.cursor);
        let distance = granule - self.cursor;
        let top = 6 * (LEVELS as u32 - 1);
        let (level, slot) = if distance < SLOTS as u64 {
            (0, granule % SLOTS as u64)
        } else {
            // The level at which the two differ first; the farthest slot for what lies beyond the top.
            let granule = granule.min(self.cursor + ((SLOTS as u64 - 1) << top));
            let mut level = 1;
            while level < LEVELS - 1
                && (granule >> (6 * level)) - (self.cursor >> (6 * level)) >= SLOTS as u64
            {
                level += 1;
            }
            (level, (granule >> (6 * level)) % SLOTS as u64)
        };
        let slot = slot as usize;
        let head = self.heads[level][slot];
        {
            let e = &mut self.entries[index as usize];
            e.slot = (level * SLOTS + slot) as u16;
            e.prev = NIL;
            e.next = head;
        }
        if head != NIL {
            self.entries[head as usize].prev = index;
        }
        self.heads[level][slot] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let e = &self.entries[index as usize];
        let (prev, next, at) = (e.prev, e.next, e.slot as usize);
        let (level, slot) = (at / SLOTS, at % SLOTS);
        if prev == NIL {
            self.heads[level][slot] = next;
            if next == NIL {
                self.occupied[level] &= !(1 << slot);
            }
        } else {
            self.entries[prev as usize].next = next;
        }
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
    }

    fn release(&mut self, index: u32) {
        let e = &mut self.entries[index as usize];
        e.key = None;
        e.generation = e.generation.wrapping_add(1);
        self.free.push(index);
        self.armed -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Against a naive model: random arms, cancels, re-arms and turns, over all levels.
    #[test]
    fn agrees_with_a_naive_list() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let mut wheel = Timers::new();
            let mut naive: Vec<(Instant, u64, u32, TimerId)> = Vec::new();
            let mut now = Instant(u64::from(rng.next_u32()));
            let mut out = Vec::new();
            wheel.expire(now, &mut out);
            for n in 0..2_000u32 {
                match rng.below(4) {
                    0 | 1 => {
                        let far = 1u64 << rng.below(56);
                        let d = Instant(now.0 + rng.next_u64() % far);
                        let id = wheel.arm(d, n);
                        naive.push((d, u64::from(n), n, id));
                    }
                    2 if !naive.is_empty() => {
                        let i = rng.below(naive.len() as u32) as usize;
                        let (_, _, _, mut id) = naive.swap_remove(i);
                        assert!(wheel.cancel(&mut id));
                        assert!(!wheel.cancel(&mut id));
                    }
                    _ => {
                        let step = 1u64 << rng.below(50);
                        now = Instant(now.0 + rng.next_u64() % step);
                        naive.sort_by_key(|e| (e.0, e.1));
                        let split = naive.partition_point(|e| e.0 <= now);
                        let want: Vec<u32> = naive.drain(..split).map(|e| e.2).collect();
                        if let Some(first) = want.first() {
                            let _ = first;
                            assert!(wheel.next_timeout().is_some_and(|t| t <= now));
                        }
                        out.clear();
                        wheel.expire(now, &mut out);
                        assert_eq!(out, want, "seed {seed} step {n}");
                    }
                }
                let min = naive.iter().map(|e| e.0).min();
                match (wheel.next_timeout(), min) {
                    (Some(t), Some(m)) => assert!(t <= m),
                    (t, m) => assert_eq!(t.is_some(), m.is_some()),
                }
                assert_eq!(wheel.len(), naive.len());
            }
        }
    }
}
