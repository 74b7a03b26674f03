//! Texts as PostgreSQL can keep them: it has no character zero.

use std::borrow::Cow;

/// Stands before what cannot be kept as it is. Low, so that texts stay in order.
const ESCAPE: char = '\u{1}';
const ZERO: char = '\u{1}';
const ONE: char = '\u{2}';

/// As it is kept. Texts are in the same order before and after.
pub(super) fn kept(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => kept.extend([ESCAPE, ZERO]),
            ESCAPE => kept.extend([ESCAPE, ONE]),
            c => kept.push(c),
        }
    }
    Cow::Owned(kept)
}

/// As it was before it was kept.
pub(super) fn said(kept: String) -> String {
    if !kept.contains(ESCAPE) {
        return kept;
    }
    let mut said = String::with_capacity(kept.len());
    let mut chars = kept.chars();
    while let Some(c) = chars.next() {
        said.push(match c {
            ESCAPE if chars.next() == Some(ONE) => ESCAPE,
            ESCAPE => '\0',
            c => c,
        });
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_kept_and_read_back_in_order() {
        let mut texts = [
            "",
            "a",
            "a\0",
            "a\0b",
            "\u{1}",
            "\u{1}\u{1}",
            "\u{2}",
            "\0\u{1}\u{2}",
        ];
        texts.sort_unstable();
        let kept: Vec<_> = texts.iter().map(|text| kept(text).into_owned()).collect();

        assert!(kept.is_sorted(), "{kept:?}");
        assert!(kept.iter().all(|text| !text.contains('\0')));
        let said: Vec<_> = kept.into_iter().map(said).collect();
        assert_eq!(said, texts);
    }
}
