//! What tells other servers that something has changed, and hears it from them.
//!
//! A wake carries no truth: it may be lost, doubled or late. It is sent after
//! the commit and on a connection of its own: a NOTIFY in the transaction would
//! make all commits wait for each other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::fault;
use super::url::Target;
use crate::id::TaskId;
use crate::store::Committed;
use crate::store::cluster::Told;
use crate::task::State;

/// The channel.
const CHANNEL: &str = "claudepool";
/// Most tasks that are named; more are everything.
const TASKS_MAX: usize = 4096;
/// Tasks that one wake names: PostgreSQL takes less than 8,000 bytes.
const TASKS_PER_WAKE: usize = 200;
/// How often a silent connection is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(15);
/// Longest wait for an answer on it.
const ANSWER: Duration = Duration::from_secs(5);
/// Waits before connecting again; they double.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

impl Told {
    /// Adds a task.
    fn task(&mut self, id: TaskId) {
        self.tasks.insert(id);
        if self.tasks.len() > TASKS_MAX {
            self.tasks.clear();
            self.everything = true;
        }
    }

    /// As wakes, each of which begins with who says it.
    fn wakes(&self, from: Uuid) -> Vec<String> {
        let flags = [
            (self.everything, '*'),
            (self.queue, 'q'),
            (self.freed, 'f'),
            (self.control, 'c'),
            (self.nodes, 'n'),
            (self.questions, '?'),
        ];
        let flags: String = flags.iter().filter(|f| f.0).map(|f| f.1).collect();
        let tasks: Vec<TaskId> = self.tasks.iter().copied().collect();
        let mut wakes = Vec::new();
        for some in tasks.chunks(TASKS_PER_WAKE) {
            let ids: Vec<String> = some.iter().map(ToString::to_string).collect();
            wakes.push(format!("{from} {flags} {}", ids.join(",")));
        }
        if wakes.is_empty() {
            wakes.push(format!("{from} {flags} "));
        }
        wakes
    }

    /// Adds what a wake of somebody else says. One that is not understood may
    /// say anything.
    fn hear(&mut self, own: Uuid, wake: &str) {
        let mut words = wake.split(' ');
        let from = words.next().and_then(|word| word.parse::<Uuid>().ok());
        if from == Some(own) {
            return;
        }
        let (Some(_), Some(flags), Some(tasks)) = (from, words.next(), words.next()) else {
            self.everything = true;
            return;
        };
        for flag in flags.chars() {
            match flag {
                'q' => self.queue = true,
                'f' => self.freed = true,
                'c' => self.control = true,
                'n' => self.nodes = true,
                '?' => self.questions = true,
                _ => self.everything = true,
            }
        }
        for id in tasks.split(',').filter(|id| !id.is_empty()) {
            match id.parse() {
                Ok(id) => self.task(id),
                Err(_) => self.everything = true,
            }
        }
    }
}

/// Collects until somebody takes it.
#[derive(Default)]
pub(super) struct Outbox {
    told: Mutex<Told>,
    wake: Notify,
}

impl Outbox {
    /// Adds something.
    pub fn add(&self, add: impl FnOnce(&mut Told)) {
        add(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    /// A task's row or log has changed.
    pub fn task(&self, id: TaskId) {
        self.add(|told| told.task(id));
    }

    /// Something was committed: the task may be somebody's now, or what it had
    /// is free.
    pub fn committed(&self, committed: &Committed) {
        self.add(|told| {
            told.task(committed.task);
            told.queue |= committed.state == State::Queued;
            told.freed |= committed.state.is_end();
        });
    }

    /// Waits until there is something, and takes it.
    pub async fn take(&self) -> Told {
        loop {
            let told = {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *told)
            };
            if !told.is_empty() {
                return told;
            }
            self.wake.notified().await;
        }
    }
}

/// The connection that speaks and listens.
pub(super) struct Wire {
    pub own: Uuid,
    pub target: Target,
    pub tls: MakeRustlsConnect,
    pub outbox: Arc<Outbox>,
    pub heard: Arc<Outbox>,
    pub stop: CancellationToken,
}

impl Wire {
    /// Runs until the store is closed. Whenever it was not connected, everything
    /// may have changed.
    pub async fn run(self) {
        let mut wait = RETRY;
        loop {
            let connected = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                connected = self.talk(&mut wait) => connected,
            };
            if let Err(why) = connected {
                warn!(why, "other servers are not heard; connecting again");
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// One connection's life.
    async fn talk(&self, wait: &mut Duration) -> Result<(), String> {
        let connecting = self.target.config.connect(self.tls.clone());
        let connected = timeout(self.target.call, connecting).await;
        let connected = connected.map_err(|_| "no answer".to_owned())?;
        let (client, mut connection) = connected.map_err(|error| fault::said(&error))?;
        let listening = async {
            let mut poll = std::pin::pin!(futures_util::stream::poll_fn(
                |cx| connection.poll_message(cx)
            ));
            loop {
                match futures_util::StreamExt::next(&mut poll).await {
                    Some(Ok(AsyncMessage::Notification(wake))) => {
                        self.heard.add(|told| told.hear(self.own, wake.payload()));
                    }
                    Some(Ok(other)) => debug!(?other, "the database says"),
                    Some(Err(error)) => return Err(fault::said(&error)),
                    None => return Err("the connection was closed".to_owned()),
                }
            }
        };
        tokio::select! {
            biased;
            ended = listening => ended,
            ended = self.speak(&client, wait) => ended,
        }
    }

    /// Sends what is collected, and asks now and then whether anybody is there.
    async fn speak(&self, client: &Client, wait: &mut Duration) -> Result<(), String> {
        let listen = format!("LISTEN {CHANNEL}");
        answered(client.batch_execute(&listen)).await?;
        *wait = RETRY;
        self.heard.add(|told| told.everything = true);
        let mut silence = interval(SILENCE);
        silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let told = tokio::select! {
                biased;
                told = self.outbox.take() => told,
                _ = silence.tick() => {
                    answered(client.batch_execute("")).await?;
                    continue;
                }
            };
            for wake in told.wakes(self.own) {
                let values: [&(dyn ToSql + Sync); 2] = [&CHANNEL, &wake];
                answered(client.execute("SELECT pg_notify($1, $2)", &values)).await?;
            }
        }
    }
}

async fn answered<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, String> {
    let answer = timeout(ANSWER, asked).await;
    let answer = answer.map_err(|_| "no answer".to_owned())?;
    answer.map_err(|error| fault::said(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_by_others_and_fits() {
        let told = Told {
            queue: true,
            questions: true,
            tasks: (0..1000).map(|_| TaskId::new()).collect(),
            ..Told::default()
        };
        let (own, other) = (Uuid::new_v4(), Uuid::new_v4());
        let wakes = told.wakes(own);
        assert!(wakes.iter().all(|wake| wake.len() < 8000));

        let (mut heard, mut echoed) = (Told::default(), Told::default());
        for wake in &wakes {
            heard.hear(other, wake);
            echoed.hear(own, wake);
        }

        assert_eq!(heard, told);
        assert_eq!(echoed, Told::default());
    }

    #[test]
    fn a_wake_that_is_not_understood_may_mean_anything() {
        for wake in ["", "x", "x q ", "00000000-0000-4000-8000-000000000000 ! "] {
            let mut heard = Told::default();
            heard.hear(Uuid::new_v4(), wake);
            assert!(heard.everything, "{wake}");
        }
    }

    #[test]
    fn more_tasks_than_are_named_are_everything() {
        let mut told = Told::default();
        (0..=TASKS_MAX).for_each(|_| told.task(TaskId::new()));
        assert!(told.everything && told.tasks.len() < TASKS_MAX);
    }
}
