//! Skills and workflows: the stored ones, over those of folders, over the
//! built-in ones.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message;
use tracing::warn;

use super::Pool;
use super::inner::Inner;
use super::own::{PAGE, PAGE_BYTES_MAX, PAGE_MAX};
use crate::catalog::{
    ENTRIES_MAX, Fixed, check_skill, check_workflow, expand, load, skills_called,
};
use crate::chain::{Arguments, Limits, accept};
use crate::clock::Timestamp;
use crate::error::{Error, Missing, Violation};
use crate::pb::{self, CatalogSource, Skill, Workflow};
use crate::store::{CatalogEntry, CatalogKind, StoreError};

/// Most bytes of all expanded prompts of one call.
const CHAIN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Reads what does not change while the server runs.
pub(super) async fn fixed(folders: &[PathBuf]) -> Result<Fixed, tokio::task::JoinError> {
    let folders = folders.to_vec();
    let (loaded, warnings) = tokio::task::spawn_blocking(move || load(&folders)).await?;
    for warning in warnings {
        warn!(path = %warning.path.display(), reason = %warning.message, "catalog file passed by");
    }
    Ok(loaded.over(Fixed::builtin()))
}

/// What skills and workflows have in common.
trait Item: Message + Default + Clone {
    const KIND: CatalogKind;
    const MISSING: Missing;
    /// The field of the request that holds it.
    const FIELD: &'static str;
    fn name(&self) -> &str;
    fn stamp(&mut self, source: CatalogSource, update_time: Option<Timestamp>);
    fn check(&self, path: &str) -> Result<(), Vec<Violation>>;
    fn fixed(fixed: &Fixed) -> &BTreeMap<String, Arc<Self>>;
}

macro_rules! item {
    ($type:ty, $kind:ident, $field:literal, $check:path, $fixed:ident) => {
        impl Item for $type {
            const KIND: CatalogKind = CatalogKind::$kind;
            const MISSING: Missing = Missing::$kind;
            const FIELD: &'static str = $field;

            fn name(&self) -> &str {
                &self.name
            }

            fn stamp(&mut self, source: CatalogSource, update_time: Option<Timestamp>) {
                self.source = source as i32;
                self.update_time = update_time.map(Timestamp::to_proto);
            }

            fn check(&self, path: &str) -> Result<(), Vec<Violation>> {
                $check(self, path)
            }

            fn fixed(fixed: &Fixed) -> &BTreeMap<String, Arc<Self>> {
                &fixed.$fixed
            }
        }
    };
}

item!(Skill, Skill, "skill", check_skill, skills);
item!(Workflow, Workflow, "workflow", check_workflow, workflows);

async fn put<T: Item>(inner: &Inner, mut item: T) -> Result<T, Error> {
    // Output only: whatever a caller says there is passed by.
    item.stamp(CatalogSource::Unspecified, None);
    item.check(&format!("{}.", T::FIELD))
        .map_err(Error::Invalid)?;
    let now = inner.now();
    let entry = CatalogEntry {
        name: item.name().to_owned(),
        bytes: item.encode_to_vec().into(),
        update_time: now,
    };
    if !inner.store.put_catalog(T::KIND, entry, ENTRIES_MAX).await? {
        return Err(Error::invalid(
            format!("{}.name", T::FIELD),
            format!("there are {ENTRIES_MAX} stored ones already: delete one first"),
        ));
    }
    item.stamp(CatalogSource::Stored, Some(now));
    Ok(item)
}

async fn find<T: Item>(inner: &Inner, name: &str) -> Result<Option<Arc<T>>, Error> {
    if let Some(entry) = inner.store.catalog_entry(T::KIND, name).await? {
        return Ok(Some(Arc::new(decode(&entry)?)));
    }
    Ok(T::fixed(&inner.catalog).get(name).cloned())
}

/// The same, to be carried out: not if it holds more than this program knows.
async fn find_known<T: Item>(inner: &Inner, name: &str) -> Result<Option<Arc<T>>, Error> {
    let Some(entry) = inner.store.catalog_entry(T::KIND, name).await? else {
        return Ok(T::fixed(&inner.catalog).get(name).cloned());
    };
    let mut item: T = decode(&entry)?;
    item.stamp(CatalogSource::Unspecified, None);
    // What is not known is dropped as it is read.
    match item.encoded_len() == entry.bytes.len() {
        true => Ok(Some(Arc::new(item))),
        false => Err(Error::NewerServerNeeded),
    }
}

async fn get<T: Item>(inner: &Inner, name: &str) -> Result<T, Error> {
    let item = find::<T>(inner, name).await?;
    item.map(Arc::unwrap_or_clone)
        .ok_or(Error::NotFound(T::MISSING))
}

async fn delete<T: Item>(inner: &Inner, name: &str) -> Result<(), Error> {
    if inner.store.delete_catalog(T::KIND, name).await? {
        Ok(())
    } else {
        Err(Error::NotFound(T::MISSING))
    }
}

/// A page by name, and the token to go on with.
async fn list<T: Item>(
    inner: &Inner,
    page_size: usize,
    token: &str,
) -> Result<(Vec<T>, String), Error> {
    let after = after_token(T::KIND, token)?;
    let most = match page_size {
        0 => PAGE,
        size => size.min(PAGE_MAX),
    };
    let mut merged = Merged::<T>::new(inner, after);
    let (mut page, mut bytes) = (Vec::<T>::new(), 0);
    while let Some(item) = merged.next().await? {
        bytes += item.encoded_len();
        let full = page.len() == most || bytes > PAGE_BYTES_MAX;
        if let Some(last) = page.last().filter(|_| full) {
            let token = make_token(T::KIND, last.name());
            return Ok((page, token));
        }
        page.push(item);
    }
    Ok((page, String::new()))
}

/// Stored and fixed items by name; a stored one hides the fixed one.
struct Merged<'a, T> {
    inner: &'a Inner,
    fixed: VecDeque<Arc<T>>,
    stored: VecDeque<CatalogEntry>,
    /// The last stored name read; `None`: there are no more.
    after: Option<String>,
}

impl<'a, T: Item> Merged<'a, T> {
    fn new(inner: &'a Inner, after: String) -> Self {
        let fixed = T::fixed(&inner.catalog)
            .iter()
            .filter(|(name, _)| **name > after)
            .map(|(_, item)| Arc::clone(item))
            .collect();
        Self {
            inner,
            fixed,
            stored: VecDeque::new(),
            after: Some(after),
        }
    }

    async fn next(&mut self) -> Result<Option<T>, Error> {
        if self.stored.is_empty()
            && let Some(after) = self.after.take()
        {
            let store = &self.inner.store;
            self.stored = store.catalog(T::KIND, &after, PAGE_BYTES_MAX).await?.into();
            self.after = self.stored.back().map(|entry| entry.name.clone());
        }
        let Some(stored) = self.stored.front() else {
            return Ok(self.fixed.pop_front().map(Arc::unwrap_or_clone));
        };
        match self.fixed.front() {
            Some(fixed) if fixed.name() < stored.name.as_str() => {
                Ok(self.fixed.pop_front().map(Arc::unwrap_or_clone))
            }
            Some(fixed) if fixed.name() == stored.name => {
                self.fixed.pop_front();
                self.take_stored()
            }
            Some(_) | None => self.take_stored(),
        }
    }

    fn take_stored(&mut self) -> Result<Option<T>, Error> {
        self.stored
            .pop_front()
            .map(|entry| decode(&entry))
            .transpose()
    }
}

fn decode<T: Item>(entry: &CatalogEntry) -> Result<T, Error> {
    let mut item = T::decode(&*entry.bytes)
        .map_err(|e| StoreError::Corrupt(format!("catalog entry {}: {e}", entry.name)))?;
    item.stamp(CatalogSource::Stored, Some(entry.update_time));
    Ok(item)
}

fn make_token(kind: CatalogKind, last: &str) -> String {
    let bytes = std::iter::once(kind.number()).chain(last.bytes());
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// The name after which a token goes on.
fn after_token(kind: CatalogKind, token: &str) -> Result<String, Error> {
    if token.is_empty() {
        return Ok(String::new());
    }
    let malformed = || Error::invalid("page_token", "is no token of this server");
    if token.len() % 2 == 1 || token.len() > 2 * 65 || !token.is_ascii() {
        return Err(malformed());
    }
    let bytes: Vec<u8> = (0..token.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&token[i..i + 2], 16))
        .collect::<Result<_, _>>()
        .map_err(|_| malformed())?;
    let (of, last) = bytes.split_first().ok_or_else(malformed)?;
    if *of != kind.number() {
        return Err(Error::PageTokenMismatch);
    }
    String::from_utf8(last.to_vec()).map_err(|_| malformed())
}

impl Pool {
    /// Makes or replaces a skill; gives it as stored.
    pub async fn put_skill(&self, skill: Skill) -> Result<Skill, Error> {
        put(&self.inner, skill).await
    }

    /// A skill.
    pub async fn get_skill(&self, name: &str) -> Result<Skill, Error> {
        get(&self.inner, name).await
    }

    /// Skills by name, and the token to go on with; empty: there are no more.
    pub async fn list_skills(
        &self,
        page_size: usize,
        page_token: &str,
    ) -> Result<(Vec<Skill>, String), Error> {
        list(&self.inner, page_size, page_token).await
    }

    /// Deletes a stored skill; what it hid shows again.
    pub async fn delete_skill(&self, name: &str) -> Result<(), Error> {
        delete::<Skill>(&self.inner, name).await
    }

    /// Makes or replaces a workflow; gives it as stored.
    pub async fn put_workflow(&self, workflow: Workflow) -> Result<Workflow, Error> {
        put(&self.inner, workflow).await
    }

    /// A workflow.
    pub async fn get_workflow(&self, name: &str) -> Result<Workflow, Error> {
        get(&self.inner, name).await
    }

    /// Workflows by name, and the token to go on with; empty: there are no
    /// more.
    pub async fn list_workflows(
        &self,
        page_size: usize,
        page_token: &str,
    ) -> Result<(Vec<Workflow>, String), Error> {
        list(&self.inner, page_size, page_token).await
    }

    /// Deletes a stored workflow; what it hid shows again.
    pub async fn delete_workflow(&self, name: &str) -> Result<(), Error> {
        delete::<Workflow>(&self.inner, name).await
    }

    /// The chain as it would run. `path` is where the steps are in the call.
    /// All chains of one call share `room`, in bytes; `None`: the first.
    pub async fn expand_chain(
        &self,
        steps: &[pb::ChainStep],
        path: &str,
        room: &mut Option<usize>,
    ) -> Result<pb::ChainSpec, Error> {
        let skills = self.skills(steps).await?;
        let find = |name: &str| skills.get(name).cloned();
        let left = room.unwrap_or(CHAIN_BYTES_MAX);
        let spec = accept(steps, path, &Arguments::new(), &find, self.limits(left))
            .map_err(Error::Invalid)?;
        *room = Some(left.saturating_sub(spec.encoded_len()));
        Ok(spec)
    }

    /// The chain that a workflow would run as with these arguments.
    pub async fn expand_workflow(
        &self,
        name: &str,
        arguments: &Arguments,
    ) -> Result<pb::ChainSpec, Error> {
        let workflow = find_known::<Workflow>(&self.inner, name)
            .await?
            .ok_or(Error::NotFound(Missing::Workflow))?;
        let skills = self.skills(&workflow.steps).await?;
        let find = |name: &str| skills.get(name).cloned();
        expand(&workflow, arguments, &find, self.limits(CHAIN_BYTES_MAX)).map_err(Error::Invalid)
    }

    /// Those skills that steps call and that there are.
    async fn skills(&self, steps: &[pb::ChainStep]) -> Result<BTreeMap<String, Arc<Skill>>, Error> {
        let mut skills = BTreeMap::new();
        // What is past the longest chain is refused anyway.
        let steps = &steps[..steps.len().min(crate::chain::STEPS_MAX)];
        for name in skills_called(steps) {
            if let Some(skill) = find_known::<Skill>(&self.inner, name).await? {
                skills.insert(name.to_owned(), skill);
            }
        }
        Ok(skills)
    }

    fn limits(&self, chain_bytes_max: usize) -> Limits {
        Limits {
            prompt_bytes_max: self.inner.options.policy.prompt_bytes_max,
            chain_bytes_max,
        }
    }
}

#[cfg(test)]
mod tests;
