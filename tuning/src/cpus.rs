//! Sets of CPUs, in the kernel's two notations: lists (`0-3,8`) and masks (`00000001,0000010f`).

use std::collections::BTreeSet;
use std::fmt;

/// Bits of one group of a mask, as the kernel's bitmaps print them.
const MASK_GROUP_BITS: u32 = 32;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    pub fn of(cpus: impl IntoIterator<Item = u32>) -> CpuSet {
        CpuSet(cpus.into_iter().collect())
    }

    /// `0-3,8`; `None` if it is something else.
    pub fn from_list(text: &str) -> Option<CpuSet> {
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            cpus.extend(first..=last);
        }
        Some(CpuSet(cpus))
    }

    /// `ff,ffffffff`: groups of 32 bits, the last has CPU 0.
    pub fn from_mask(text: &str) -> Option<CpuSet> {
        let mut cpus = BTreeSet::new();
        for (group, digits) in (0u32..).zip(text.trim().split(',').rev()) {
            let bits = u32::from_str_radix(digits, 16).ok()?;
            let set = (0..MASK_GROUP_BITS).filter(|bit| bits & (1 << bit) != 0);
            cpus.extend(set.map(|bit| group * MASK_GROUP_BITS + bit));
        }
        Some(CpuSet(cpus))
    }

    pub fn mask(&self) -> String {
        let groups = self.0.last().map_or(0, |last| last / MASK_GROUP_BITS) + 1;
        let mut bits = vec![0u32; groups as usize];
        for cpu in &self.0 {
            bits[(cpu / MASK_GROUP_BITS) as usize] |= 1 << (cpu % MASK_GROUP_BITS);
        }
        let mut text = format!("{:x}", bits.pop().unwrap_or(0));
        for group in bits.iter().rev() {
            text.push_str(&format!(",{group:08x}"));
        }
        text
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }
}

/// As a list.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut rest = self.0.iter().copied().peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_notations() {
        let check = |list: &str, mask: &str| {
            let set = CpuSet::from_list(list).unwrap();
            assert_eq!((set.to_string().as_str(), set.mask().as_str()), (list, mask));
            assert_eq!(CpuSet::from_mask(mask), Some(set));
        };
        check("0-3,8", "10f");
        check("", "0");
        check("63", "80000000,00000000");
        check("0,32", "1,00000001");
        assert_eq!(CpuSet::from_mask("00000000,00000003\n"), CpuSet::from_list("0-1\n"));
        assert_eq!(CpuSet::from_list("a"), None);
        assert_eq!(CpuSet::from_mask("xyz"), None);
    }

    proptest! {
        #[test]
        fn both_notations_hold_any_set(cpus in prop::collection::vec(0u32..512, 0..64)) {
            let set = CpuSet::of(cpus);
            prop_assert_eq!(CpuSet::from_list(&set.to_string()), Some(set.clone()));
            prop_assert_eq!(CpuSet::from_mask(&set.mask()), Some(set));
        }
    }
}
