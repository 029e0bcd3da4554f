//! What a file is called in the repository. Pure.

/// Shortest and longest name that the repository takes.
const SHORTEST: usize = 6;
const LONGEST: usize = 68;

/// The name under which a file is sent: 6 to 68 of `A-Z a-z 0-9 . - _`.
///
/// Every generation takes these, and keeps them in the address as they are. Anything else becomes `_`;
/// a short name gets `file_` in front, a long one loses from its beginning, so that its ending stays.
#[must_use]
pub fn request_name(name: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let mut made: String = name.chars().map(|c| if safe(c) { c } else { '_' }).collect();
    if made.len() < SHORTEST {
        made.insert_str(0, "file_");
    }
    while made.len() < SHORTEST {
        made.push('_');
    }
    if made.len() > LONGEST {
        made.drain(..made.len() - LONGEST);
    }
    made
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_what_every_generation_takes() {
        for (name, sent) in [
            ("image-001.jpg", "image-001.jpg"),
            ("Bild 1 (neu)+.jpg", "Bild_1__neu__.jpg"),
            ("a.gz", "file_a.gz"),
            ("", "file__"),
            ("Zähler.csv", "Z_hler.csv"),
            ("../x/passwd", ".._x_passwd"),
        ] {
            assert_eq!(request_name(name), sent, "{name}");
        }
        let long = request_name(&format!("{}.tar.gz", "x".repeat(300)));
        assert!(long.len() == 68 && long.ends_with("x.tar.gz"), "{long}");
    }

    proptest! {
        /// Whatever the name, the repository takes what is made of it.
        #[test]
        fn every_name_becomes_a_name(name in ".*") {
            let made = request_name(&name);
            prop_assert!((SHORTEST..=LONGEST).contains(&made.len()));
            prop_assert!(made.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)));
        }
    }
}
