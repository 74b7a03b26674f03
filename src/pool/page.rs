//! Page tokens: where a list goes on, bound to its query. Pure.

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::id::TaskId;
use crate::store::Filter;

/// Bytes of the query's digest in a token.
const DIGEST: usize = 8;

/// A token that goes on after `last`.
pub fn token(filter: &Filter, full: bool, last: TaskId) -> String {
    let mut bytes = digest(filter, full).to_vec();
    bytes.extend(last.as_bytes());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a token goes on; `None` for the empty one.
pub fn parse(filter: &Filter, full: bool, token: &str) -> Result<Option<TaskId>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let malformed = || Error::invalid("page_token", "is no token of this server");
    if token.len() != 2 * (DIGEST + 16) || !token.is_ascii() {
        return Err(malformed());
    }
    let bytes: Vec<u8> = (0..token.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&token[i..i + 2], 16))
        .collect::<Result<_, _>>()
        .map_err(|_| malformed())?;
    let (query, last) = bytes.split_at(DIGEST);
    if query != digest(filter, full) {
        return Err(Error::PageTokenMismatch);
    }
    let last = last.try_into().map_err(|_| malformed())?;
    Ok(Some(TaskId::from_bytes(last)))
}

fn digest(filter: &Filter, full: bool) -> [u8; DIGEST] {
    // `Debug` of plain data names every field, in order.
    let hash = Sha256::digest(format!("{filter:?} {full}").as_bytes());
    let mut short = [0; DIGEST];
    short.copy_from_slice(&hash[..DIGEST]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_on_in_its_own_query_only() {
        let (filter, last) = (Filter::default(), TaskId::new());
        let given = token(&filter, false, last);
        assert_eq!(parse(&filter, false, &given).ok(), Some(Some(last)));
        let other = Filter {
            include_steps: true,
            ..Filter::default()
        };
        assert!(matches!(
            parse(&other, false, &given),
            Err(Error::PageTokenMismatch)
        ));
        assert!(matches!(
            parse(&filter, true, &given),
            Err(Error::PageTokenMismatch)
        ));
    }

    #[test]
    fn a_token_that_is_none_is_a_wrong_field() {
        let long = "zz".repeat(DIGEST + 16);
        for bad in ["x", "ab", "é", long.as_str()] {
            assert!(
                matches!(
                    parse(&Filter::default(), false, bad),
                    Err(Error::Invalid(_))
                ),
                "{bad}"
            );
        }
    }
}
