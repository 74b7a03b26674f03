//! Changes of the shared context, within its limits.

use std::sync::Arc;

use super::inner::Inner;
use crate::error::{Error, Missing};
use crate::store::{Context, StoreError};

/// Most keys.
const KEYS_MAX: usize = 256;
/// Longest key, in bytes.
const KEY_MAX: usize = 128;
/// Longest value, in bytes.
const VALUE_MAX: usize = 64 * 1024;
/// All keys and values, in bytes.
const TOTAL_MAX: usize = 256 * 1024;

/// Sets or removes a key; gives the new revision.
pub(super) async fn change(inner: &Inner, key: &str, value: Option<&str>) -> Result<u64, Error> {
    let _one_at_a_time = inner.context_change.lock().await;
    loop {
        let before = inner.store.context().await?;
        allowed(&before, key, value)?;
        let changed = inner
            .store
            .set_context(before.revision, key, value, inner.now())
            .await;
        match changed {
            Ok(revision) => {
                let now = inner.store.context().await?;
                inner.context.send_replace(Arc::new(now));
                inner.status_changed();
                return Ok(revision);
            }
            // Another node's change came first.
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn allowed(context: &Context, key: &str, value: Option<&str>) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if key.is_empty() || key.len() > KEY_MAX || !key.chars().all(good) {
        return Err(Error::invalid(
            "key",
            "must be 1 to 128 letters, digits, \".\", \"_\", \"-\" or \"/\"",
        ));
    }
    let Some(value) = value else {
        let there = context.entries.contains_key(key);
        return there
            .then_some(())
            .ok_or(Error::NotFound(Missing::ContextKey));
    };
    if value.len() > VALUE_MAX {
        return Err(Error::invalid("value", "must be at most 65536 bytes"));
    }
    let others = context.entries.iter().filter(|(other, _)| *other != key);
    let (keys, bytes) = others.fold((0, 0), |(keys, bytes), (key, entry)| {
        (keys + 1, bytes + key.len() + entry.value.len())
    });
    if keys + 1 > KEYS_MAX {
        return Err(Error::invalid("key", "there are 256 keys already"));
    }
    if bytes + key.len() + value.len() > TOTAL_MAX {
        return Err(Error::invalid(
            "value",
            "all keys and values together must be at most 262144 bytes",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::store::ContextValue;

    #[test]
    fn the_shared_context_stays_within_its_limits() {
        let mut context = Context::default();
        assert!(allowed(&context, "team/rules", Some("x")).is_ok());
        for bad in ["", "a b", "a\"b", "<a>"] {
            assert!(matches!(
                allowed(&context, bad, Some("x")),
                Err(Error::Invalid(_))
            ));
        }
        let long = "x".repeat(VALUE_MAX + 1);
        assert!(allowed(&context, "a", Some(&long)).is_err());
        assert!(matches!(
            allowed(&context, "a", None),
            Err(Error::NotFound(Missing::ContextKey))
        ));
        for i in 0..4 {
            context.entries.insert(
                format!("k{i}"),
                ContextValue {
                    value: "x".repeat(VALUE_MAX - 2),
                    update_time: Timestamp(0),
                },
            );
        }
        assert!(
            allowed(&context, "k4", Some("x")).is_err(),
            "the total is full"
        );
        assert!(
            allowed(&context, "k3", Some("x")).is_ok(),
            "what it replaces does not count"
        );
    }
}
