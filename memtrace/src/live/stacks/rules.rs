//! The array in which the programs look rules up.

use memtrace_ebpf::{BUCKET_RULES, Rule, names::SENT_STACKS_LEN};

use crate::sys::shared::WritableWords;

/// Buckets of the array: 256 Ki rules, 4 MiB.
pub(in crate::live) const BUCKETS: u32 = 1 << 16;

/// The array `RULES`, which nobody else writes, and `SENT_STACKS`.
#[derive(Debug)]
pub struct RuleTable {
    words: WritableWords,
    sent: WritableWords,
    /// Where the next rule goes that displaces another one.
    next: usize,
}

impl RuleTable {
    /// The table in the `words` of `RULES`; in `sent` is which stacks have been sent.
    pub(in crate::live) const fn new(words: WritableWords, sent: WritableWords) -> Self {
        Self { words, sent, next: 0 }
    }

    /// Has all stacks sent again.
    pub(super) fn forget_sent(&self) {
        (0..SENT_STACKS_LEN as usize).for_each(|place| self.sent.store(place, 0));
    }

    /// Words of the array.
    pub(in crate::live) const fn words() -> usize {
        BUCKETS as usize * 2 * BUCKET_RULES
    }

    /// Sets the rule of `key`; displaces another one if there is no room.
    pub(super) fn insert(&mut self, key: u64, rule: Rule) {
        let places = places_of(key);
        if places.clone().any(|place| self.at(place) == (key, rule)) {
            return;
        }
        let mut free = places
            .clone()
            .filter(|place| matches!(self.at(*place), (found, _) if found == key || found == 0));
        let place = free.next().unwrap_or_else(|| {
            self.next = (self.next + 1) % BUCKET_RULES;
            places.start + self.next
        });
        // Between the two neither fits the other.
        self.words.store(place + BUCKET_RULES, rule.0);
        self.words.store(place, key ^ rule.0);
    }

    /// Takes the rule of `key` away.
    pub(super) fn remove(&mut self, key: u64) {
        for place in places_of(key).filter(|place| self.at(*place).0 == key) {
            self.words.store(place, 0);
            self.words.store(place + BUCKET_RULES, 0);
        }
    }

    /// The key and the rule at `place`.
    fn at(&self, place: usize) -> (u64, Rule) {
        let rule = self.words.load(place + BUCKET_RULES);
        (self.words.load(place) ^ rule, Rule(rule))
    }
}

/// Where the rule of `key` may be: the words of checks, each [`BUCKET_RULES`] before its rule.
fn places_of(key: u64) -> std::ops::Range<usize> {
    let bucket = usize::try_from(key & u64::from(BUCKETS - 1)).unwrap_or_default() * 2 * BUCKET_RULES;
    bucket..bucket + BUCKET_RULES
}
