//! Transparent huge pages.

use super::Family;
use crate::place::Place;
use crate::setting::{Setting, UNDO_VALUE};

pub(super) const SETTINGS: &[Setting] = &[Setting {
    family: Family::HugePages,
    name: "transparent huge pages",
    what: "whether memory is given in pages of 2 MiB without being asked for",
    why: "the broker's memory grows in small chunks: with huge pages 15,000 idle connections took \
          840 bytes each instead of 130 to 180",
    formula: "madvise where it is always; else left",
    kernels: "since 2.6.38",
    range: (0, 0),
    risk: "programs that profit from huge pages and do not ask for them lose them for new memory",
    undo: UNDO_VALUE,
    source: "Documentation/admin-guide/mm/transhuge.rst",
    propose: |p| {
        let place = Place::Value("sys/kernel/mm/transparent_hugepage/enabled".to_owned());
        match place.read(p.host) {
            Some(current) if place.same(&current, "always") => p.exactly(place, "madvise"),
            Some(_) => p.unchanged_count += 1,
            None => {}
        }
    },
}];
