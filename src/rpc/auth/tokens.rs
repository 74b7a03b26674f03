//! Bearer tokens, by their hashes.

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::{Caller, Scopes, is_name};
use crate::id::CallerId;

/// Most tokens of a file: every call looks at each of them.
const TOKENS_MAX: usize = 10_000;

/// The SHA-256 of a token.
pub(super) type Hash = [u8; 32];

/// Of what came as a token.
pub(super) fn digest(token: &[u8]) -> Hash {
    Sha256::digest(token).into()
}

/// The SHA-256 of a token, in hexadecimal: what a token file holds. A token is
/// long and random, so that a slow hash or a salt would add nothing.
pub fn hash(token: &str) -> String {
    digest(token.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The tokens that are good now.
#[derive(Default)]
pub struct Tokens(Vec<Token>);

struct Token {
    hash: Hash,
    caller: Caller,
}

impl Tokens {
    /// Reads a token file: a line per token with the caller's name, its scopes
    /// with commas between them, and the token's SHA-256 in hexadecimal. Empty
    /// lines and those that begin with `#` are passed by; of one name there may
    /// be several. The error is one sentence that names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // The line itself is not told: somebody may have put a token there.
            let token = token(line).map_err(|why| format!("line {}: {why}", n + 1))?;
            tokens.push(token);
        }
        if tokens.len() > TOKENS_MAX {
            return Err(format!("has more than {TOKENS_MAX} tokens"));
        }
        Ok(Self(tokens))
    }

    /// Whose token has this hash. How long it takes does not tell how much of a
    /// token was right.
    pub(super) fn caller(&self, hash: &Hash) -> Option<&Caller> {
        let mut found = u64::MAX;
        for (n, known) in (0u64..).zip(&self.0) {
            found.conditional_assign(&n, known.hash.ct_eq(hash));
        }
        let token = self.0.get(usize::try_from(found).ok()?)?;
        Some(&token.caller)
    }
}

fn token(line: &str) -> Result<Token, String> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(scopes), Some(hash), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("must be a name, scopes and a SHA-256".to_owned());
    };
    if !is_name(name) {
        return Err("the name must be 1 to 128 printable ASCII characters".to_owned());
    }
    Ok(Token {
        hash: unhex(hash).ok_or("the SHA-256 must be 64 hexadecimal digits")?,
        caller: Caller {
            id: CallerId::from(name),
            scopes: Scopes::parse(scopes.split(','))?,
        },
    })
}

fn unhex(text: &str) -> Option<Hash> {
    let digits = text.as_bytes().as_chunks::<2>();
    let (pairs, []) = digits else { return None };
    let mut bytes = Vec::with_capacity(32);
    for pair in pairs {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        bytes.push(u8::try_from(high? * 16 + low?).ok()?);
    }
    bytes.try_into().ok()
}
