//! Pages of tasks, newest first.

use tokio_postgres::types::ToSql;

use super::call::Link;
use super::columns::uuid;
use super::fault::Fault;
use super::read::{records, select};
use super::text::kept;
use crate::id::TaskId;
use crate::store::row::integer;
use crate::store::{Filter, Query};
use crate::task::{Record, State};

/// More tags than this are looked for task by task instead of tag by tag.
const TAG_ARMS_MAX: usize = 16;

/// Values by their place in a statement that is put together.
#[derive(Default)]
struct Values(Vec<Box<dyn ToSql + Sync + Send>>);

impl Values {
    /// How the statement names it.
    fn hole(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.0.push(Box::new(value));
        format!("${}", self.0.len())
    }
}

/// A page. Each arm of the union walks one index in the order of ids and stops
/// at the limit, so that a page costs the same at a thousand tasks and at a
/// million.
pub(super) async fn list(link: &Link, query: Query) -> Result<Vec<Record>, Fault> {
    let mut values = Values::default();
    let before = values.hole(uuid(query.before.unwrap_or(TaskId::MAX).as_bytes()));
    let limit = values.hole(integer(query.limit as u64));
    let arms = arms(&query.filter, &before, &mut values);
    let arms = arms.into_iter().zip(0..).map(|(arm, n)| {
        format!("SELECT id FROM (SELECT t.id FROM {arm} ORDER BY t.id DESC LIMIT {limit}) a{n}")
    });
    let sql = format!(
        "{} WHERE t.id IN (SELECT id FROM ({}) page ORDER BY id DESC LIMIT {limit})
         ORDER BY t.id DESC",
        select(query.parts),
        arms.collect::<Vec<_>>().join(" UNION ")
    );
    let values: Vec<&(dyn ToSql + Sync)> = values.0.iter().map(|v| &**v as _).collect();
    records(&link.rows_once(&sql, &values).await?)
}

/// What is gone through for a page: tables and conditions.
fn arms(filter: &Filter, before: &str, values: &mut Values) -> Vec<String> {
    let mut rest = format!("t.id < {before}");
    let mut also = |condition: String| {
        rest += " AND ";
        rest += &condition;
    };
    if let Some(slot) = &filter.slot {
        let slot = values.hole(kept(&slot.0).into_owned());
        also(format!("t.slot = {slot} AND t.slot IS NOT NULL"));
    }
    if let Some(from) = filter.created_from {
        also(format!("t.create_time >= {}", values.hole(from.0)));
    }
    if let Some(to) = filter.created_before {
        also(format!("t.create_time < {}", values.hole(to.0)));
    }
    if let Some(caller) = &filter.caller {
        also(format!(
            "t.caller = {}",
            values.hole(kept(&caller.0).into_owned())
        ));
    }
    if let Some(group) = filter.group {
        also(format!(
            "t.group_id = {}",
            values.hole(uuid(group.as_bytes()))
        ));
    }
    match filter.parent {
        Some(parent) => also(format!(
            "t.parent_id = {}",
            values.hole(uuid(parent.as_bytes()))
        )),
        None if !filter.include_steps => also("t.parent_id IS NULL".to_owned()),
        None => {}
    }
    let timed = filter.created_from.is_some() || filter.created_before.is_some();
    let few = filter.group.is_some() || filter.parent.is_some();
    let tags: Vec<String> = filter
        .any_tags
        .iter()
        .map(|tag| kept(tag).into_owned())
        .collect();
    let tag_arms = !few && (1..=TAG_ARMS_MAX).contains(&tags.len());
    if !tag_arms && !tags.is_empty() {
        let tags = values.hole(tags.clone());
        also(format!(
            "EXISTS (SELECT 1 FROM task_tags g WHERE g.tag = ANY({tags}) AND g.task = t.id)"
        ));
    }
    let states = match &filter.states[..] {
        [] => &State::ALL[..],
        some => some,
    };
    let numbers: Vec<String> = states
        .iter()
        .map(|state| (state.to_proto() as i32).to_string())
        .collect();
    let among = format!("t.state IN ({})", numbers.join(", "));
    if tag_arms {
        let arm = |tag| {
            format!(
                "task_tags g JOIN tasks t ON t.id = g.task
                 WHERE g.tag = {} AND g.task < {before} AND {rest} AND {among}",
                values.hole(tag)
            )
        };
        tags.into_iter().map(arm).collect()
    } else if few || filter.slot.is_some() {
        vec![format!("tasks t WHERE {rest} AND {among}")]
    } else if filter.caller.is_some() || !filter.states.is_empty() || timed {
        let arm = |state| format!("tasks t WHERE {rest} AND t.state = {state}");
        numbers.into_iter().map(arm).collect()
    } else {
        vec![format!("tasks t WHERE {rest}")]
    }
}
