//! A set of piece indices of one chunk.

/// A fixed-size set of the numbers `0..len`. Bits past `len` are always zero.
///
/// It has no encoding of its own: messages carry [`Bitmap::words`], and [`Bitmap::from_words`] checks them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bitmap {
    len: u32,
    ones: u32,
    words: Vec<u64>,
}

impl Bitmap {
    /// The empty set over `0..len`.
    pub fn new(len: u32) -> Self {
        Self { len, ones: 0, words: vec![0; len.div_ceil(64) as usize] }
    }

    /// The whole set `0..len`.
    pub fn full(len: u32) -> Self {
        let mut map = Self { len, ones: len, words: vec![u64::MAX; len.div_ceil(64) as usize] };
        if let Some(last) = map.words.last_mut()
            && !len.is_multiple_of(64)
        {
            *last = (1 << (len % 64)) - 1;
        }
        map
    }

    /// Rebuilds a set from 64-bit words as they came from a peer; `None` when they do not fit `len`.
    pub fn from_words(len: u32, words: Vec<u64>) -> Option<Self> {
        if words.len() != len.div_ceil(64) as usize {
            return None;
        }
        if !len.is_multiple_of(64) && words.last().is_some_and(|last| last >> (len % 64) != 0) {
            return None;
        }
        let ones = words.iter().map(|word| word.count_ones()).sum();
        Some(Self { len, ones, words })
    }

    /// The words, lowest index first, as they go over the wire.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// How many numbers the set ranges over.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the set ranges over nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many numbers are in the set.
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// Whether every number is in the set.
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// Whether `index` is in the set; false past the end.
    pub fn contains(&self, index: u32) -> bool {
        index < self.len && self.words[index as usize / 64] >> (index % 64) & 1 == 1
    }

    /// Puts `index` in; returns whether it was new. Past the end nothing happens.
    pub fn insert(&mut self, index: u32) -> bool {
        if index >= self.len || self.contains(index) {
            return false;
        }
        self.words[index as usize / 64] |= 1 << (index % 64);
        self.ones += 1;
        true
    }

    /// Takes `index` out; returns whether it was there.
    pub fn remove(&mut self, index: u32) -> bool {
        if !self.contains(index) {
            return false;
        }
        self.words[index as usize / 64] &= !(1 << (index % 64));
        self.ones -= 1;
        true
    }

    /// The numbers in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            std::iter::successors((word != 0).then_some(word), |rest| {
                let rest = rest & (rest - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |rest| at as u32 * 64 + rest.trailing_zeros())
        })
    }

    /// The numbers not in the set, ascending.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len).filter(|&index| !self.contains(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_has_no_bits_past_its_end() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let map = Bitmap::full(len);
            assert_eq!(map.iter().count() as u32, len);
            assert!(map.is_full());
            assert_eq!(Bitmap::from_words(len, map.words().to_vec()), Some(map));
        }
    }

    #[test]
    fn insert_and_remove_keep_the_count() {
        let mut map = Bitmap::new(130);
        assert!(map.insert(0) && map.insert(64) && map.insert(129));
        assert!(!map.insert(129) && !map.insert(130));
        assert_eq!(map.iter().collect::<Vec<_>>(), [0, 64, 129]);
        assert!(map.remove(64) && !map.remove(64));
        assert_eq!(map.count(), 2);
        assert_eq!(map.missing().count(), 128);
    }

    #[test]
    fn words_that_do_not_fit_are_refused() {
        assert_eq!(Bitmap::from_words(65, vec![0]), None);
        assert_eq!(Bitmap::from_words(3, vec![8]), None);
    }
}
