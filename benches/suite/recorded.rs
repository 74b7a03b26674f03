//! What the store sends in a transaction, read from the database's own log, and
//! the same sent by the driver with nothing around it.
//!
//! So what is compared are the same statements, also when the store's change:
//! texts and values as they were, but the ids of tasks, which are new each time.

use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::measure::Failure;

/// A statement as it was logged.
#[derive(Clone, Debug)]
struct Logged {
    sql: String,
    values: Vec<String>,
}

/// The statements of a transaction, in their order.
#[derive(Clone, Debug)]
pub struct Script {
    logged: Vec<Logged>,
    tasks: Vec<String>,
}

impl Script {
    /// The last transaction in a log that has a statement which begins so, and
    /// the tasks that it is about.
    pub fn read(log: &str, begin: &str, tasks: &[String]) -> Result<Self, Failure> {
        let all = transactions(log);
        let is_it = |statements: &&Vec<Logged>| statements.iter().any(|s| s.sql.starts_with(begin));
        let found = all.iter().rfind(is_it);
        let logged = found.ok_or_else(|| format!("the database's log holds no {begin}"))?;
        Ok(Self {
            logged: logged.clone(),
            tasks: tasks.to_vec(),
        })
    }

    /// Readies it on a connection. `shard` is the row of the sums that it writes
    /// to.
    pub async fn ready(&self, client: Arc<Client>, shard: usize) -> Result<Bare, Failure> {
        let mut steps = Vec::new();
        for logged in &self.logged {
            let mut values = logged.values.clone();
            if logged.sql.starts_with("UPDATE books")
                && let Some(first) = values.first_mut()
            {
                *first = format!("'{shard}'");
            }
            let is_ids = |value: &String| {
                value.starts_with("'{") && self.tasks.iter().any(|id| value.contains(id.as_str()))
            };
            let has_ids = values.iter().any(is_ids);
            let sql = inlined(&logged.sql, &values, is_ids);
            let statement = client.prepare(&sql).await;
            let statement = statement.map_err(|error| format!("{error}: {sql}"))?;
            steps.push(Step {
                statement,
                has_ids,
                gives_ids: sql.contains("SKIP LOCKED"),
                // As the store does: what is written goes out in one go, the
                // sums after it.
                is_written: sql.starts_with("INSERT") || sql.starts_with("UPDATE tasks"),
            });
        }
        Ok(Bare { client, steps })
    }
}

/// A connection that does what was recorded.
pub struct Bare {
    client: Arc<Client>,
    steps: Vec<Step>,
}

struct Step {
    statement: Statement,
    has_ids: bool,
    gives_ids: bool,
    is_written: bool,
}

impl Bare {
    /// One transaction, about these tasks or, if it chooses them itself, about
    /// that many; how many it was about. Fewer are left as they are.
    pub async fn run(&self, mut ids: Vec<Uuid>, wanted: usize) -> Result<usize, Failure> {
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        self.client.batch_execute(begin).await?;
        let mut rest = &self.steps[..];
        while let Some(first) = rest.first() {
            let together = rest.iter().take_while(|step| step.is_written).count();
            let (now, later) = rest.split_at(together.max(1));
            rest = later;
            if first.gives_ids {
                let rows = self.query(first, &ids).await?;
                ids = rows
                    .iter()
                    .map(|r| r.try_get(0))
                    .collect::<Result<_, _>>()?;
                if ids.len() < wanted {
                    self.client.batch_execute("ROLLBACK").await?;
                    return Ok(0);
                }
                continue;
            }
            try_join_all(now.iter().map(|step| self.query(step, &ids))).await?;
        }
        self.client.batch_execute("COMMIT").await?;
        Ok(ids.len())
    }

    async fn query(
        &self,
        step: &Step,
        ids: &[Uuid],
    ) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
        match step.has_ids {
            true => self.client.query(&step.statement, &[&ids]).await,
            false => self.client.query(&step.statement, &[]).await,
        }
    }
}

/// A statement with its values in it, and `$1` for those that are ids.
fn inlined(sql: &str, values: &[String], is_ids: impl Fn(&String) -> bool) -> String {
    let mut text = String::new();
    let mut parts = sql.split('$');
    text.extend(parts.next());
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = part.split_at(digits);
        let place = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        match place.and_then(|place| values.get(place)) {
            Some(value) if is_ids(value) => text.push_str("$1"),
            Some(value) => text.push_str(value),
            None => {
                text.push('$');
                text.push_str(number);
            }
        }
        text.push_str(after);
    }
    text
}

/// The transactions in a log whose lines begin with the process in brackets.
fn transactions(log: &str) -> Vec<Vec<Logged>> {
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in log.lines() {
        let own = line
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("] "));
        match (own, entries.last_mut()) {
            (Some((pid, text)), _) => entries.push((pid.to_owned(), text.to_owned())),
            // The rest of what is several lines begins with a tab.
            (None, Some((_, text))) => {
                text.push('\n');
                text.push_str(line.strip_prefix('\t').unwrap_or(line));
            }
            (None, None) => {}
        }
    }
    let mut open: std::collections::HashMap<String, Vec<Logged>> = Default::default();
    let mut ended = Vec::new();
    for (pid, text) in entries {
        if let Some(sql) = text.strip_prefix("LOG:  statement: ") {
            let whole = open.insert(pid, Vec::new());
            if sql.starts_with("COMMIT") {
                ended.extend(whole);
            }
        } else if let Some(executed) = text.strip_prefix("LOG:  execute ")
            && let Some((_, sql)) = executed.split_once(": ")
        {
            let sql = sql.trim().to_owned();
            let values = Vec::new();
            open.entry(pid).or_default().push(Logged { sql, values });
        } else if let Some(told) = text.strip_prefix("DETAIL:  parameters: ")
            && let Some(last) = open.get_mut(&pid).and_then(|known| known.last_mut())
        {
            last.values = values(told);
        }
    }
    ended
}

/// `$1 = 'a', $2 = NULL`: what is right of each sign.
fn values(told: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = told;
    while let Some((_, value)) = rest.split_once(" = ") {
        let mut end = 0;
        let mut quoted = false;
        // A quote within is doubled, which closes and opens.
        for (at, c) in value.char_indices() {
            quoted ^= c == '\'';
            if c == ',' && !quoted {
                break;
            }
            end = at + c.len_utf8();
        }
        found.push(value[..end].to_owned());
        rest = &value[end..];
    }
    found
}
