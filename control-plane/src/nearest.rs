//! The known name that a mistyped one probably means.

/// The name of `known` with the fewest edits, if it is near enough to be meant: one letter in three
/// may differ.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let edited = known.into_iter().map(|name| (edits(typed, name), name));
    let near = edited.filter(|(edits, name)| *edits <= typed.len().max(name.len()).div_ceil(3));
    near.min().map(|(_, name)| name)
}

/// Levenshtein distance, by bytes. Long input is not a typing mistake and is not looked at.
fn edits(a: &str, b: &str) -> usize {
    const BYTES_MAX: usize = 64;
    if a.len() > BYTES_MAX || b.len() > BYTES_MAX {
        return a.len().max(b.len());
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["listen_api", "listen_link", "store", "ttl_s", "to"];
        for (typed, expect) in [
            ("listen_apu", Some("listen_api")),
            ("listenlink", Some("listen_link")),
            ("stroe", Some("store")),
            ("stor", Some("store")),
            ("ttl", Some("ttl_s")),
            ("tto", Some("to")),
            ("completely_different", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), expect, "{typed}");
        }
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
    }
}
