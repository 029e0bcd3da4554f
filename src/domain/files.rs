//! Files: patterns of their names, and tags.

/// Whether a tag is one that a file in the File Repository can have.
#[must_use]
pub fn is_file_tag(tag: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (3..=32).contains(&tag.len()) && tag.bytes().all(allowed)
}

/// A pattern of file names: `*` is any text, `?` any one character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<char>);

impl Pattern {
    /// Takes a pattern; a file name's, so without a slash.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= 255 && !text.contains(['/', '\0']);
        fits.then(|| Self(text.chars().collect()))
    }

    /// Whether the whole name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut in_pattern) = (0, 0);
        // Where the last star stands, and the name's position it was tried with.
        let mut star = None;
        while at < name.len() {
            match self.0.get(in_pattern) {
                Some('*') => {
                    star = Some((in_pattern, at));
                    in_pattern += 1;
                }
                Some(c) if *c == '?' || *c == name[at] => {
                    at += 1;
                    in_pattern += 1;
                }
                _ => {
                    let Some((stands, tried)) = star else { return false };
                    star = Some((stands, tried + 1));
                    (at, in_pattern) = (tried + 1, stands + 1);
                }
            }
        }
        self.0[in_pattern..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let matches =
            |pattern: &str, name: &str| Pattern::parse(pattern).expect(pattern).matches(name);
        for (pattern, name) in
            [("*", ""), ("*.jpg", "a.jpg"), ("a?c*", "abc"), ("*a*b*", "xxaxxbxx"), ("?", "ä")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("*.jpg", "a.jpeg"), ("?", ""), ("a", "ab"), ("*.jpg", "a.JPG"), ("a*b", "abc")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert_eq!(Pattern::parse("a/b"), None);
        assert_eq!(Pattern::parse(""), None);
    }

    proptest! {
        /// A star in place of any part of a name still means that name, however long.
        #[test]
        fn a_star_stands_for_any_part(name in "[a-c*?]{0,40}", cut in any::<prop::sample::Index>()) {
            let at = cut.index(name.len() + 1);
            let pattern = format!("{}*", &name[..at]);
            prop_assert!(Pattern::parse(&pattern).expect("a pattern").matches(&name));
        }
    }
}
