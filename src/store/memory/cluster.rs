//! Many nodes on one store in memory: for tests of what nodes do together.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::Memory;
use super::inner::Inner;
use super::nodes::{Asked, Handle, Living};
use crate::id::{CallerId, NodeId};
use crate::store::cluster::{Cluster, Control, Node, Question, Told};
use crate::store::{Committed, StoreError};
use crate::task::{Level, State, Task};

impl Memory {
    /// Handles of one empty store, for so many nodes.
    pub fn for_nodes(count: usize) -> Vec<Self> {
        let first = Self::default();
        let handles = (0..count).map(|_| first.another());
        handles.collect()
    }

    /// One more handle of the same store.
    pub fn another(&self) -> Self {
        let mut inner = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            handle: Some(inner.add_handle()),
            shared: Arc::clone(&self.shared),
            closed: false.into(),
        }
    }

    fn handle(&self) -> Result<&Handle, StoreError> {
        let alone = || StoreError::Unavailable("it has one node".to_owned());
        self.handle.as_ref().ok_or_else(alone)
    }

    fn node(&self) -> Option<NodeId> {
        let node = self.handle.as_ref()?.node.lock();
        node.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_node(&self, node: Option<NodeId>) -> Result<(), StoreError> {
        let mut own = self.handle()?.node.lock();
        *own.as_deref_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut()) = node;
        Ok(())
    }

    /// The node of this handle, while its lease holds.
    fn living<'a>(&self, inner: &'a mut Inner) -> Result<&'a mut Living, StoreError> {
        let number = self.handle()?.number;
        let node = self.node().ok_or(StoreError::Fenced)?;
        let now = Instant::now();
        let living = inner.nodes.living.get_mut(&node);
        let own = living.filter(|living| living.handle == number && living.until > now);
        own.ok_or(StoreError::Fenced)
    }

    /// Whether this handle may claim: it has not joined, or its lease holds.
    pub(super) fn check_lease(&self, inner: &mut Inner) -> Result<(), StoreError> {
        match self.node() {
            Some(_) => self.living(inner).map(drop),
            None => Ok(()),
        }
    }

    /// Tells the other handles.
    pub(super) fn tell(&self, inner: &Inner, tell: impl Fn(&mut Told)) {
        if let Some(handle) = &self.handle {
            inner.nodes.tell(handle.number, tell);
        }
    }

    /// Tells the other handles of tasks.
    pub(super) fn tell_tasks<'a>(
        &self,
        inner: &Inner,
        committed: impl IntoIterator<Item = &'a Committed> + Clone,
    ) {
        self.tell(inner, |told| {
            for committed in committed.clone() {
                told.tasks.insert(committed.task);
                told.queue |= committed.state == State::Queued;
                told.freed |= committed.state.is_end();
            }
        });
    }
}

#[async_trait]
impl Cluster for Memory {
    async fn join(
        &self,
        node: &NodeId,
        labels: &BTreeSet<String>,
        span: Duration,
    ) -> Result<Option<Duration>, StoreError> {
        let mut inner = self.lock()?;
        let now = Instant::now();
        if let Some(living) = inner.nodes.living.get(node)
            && living.until > now
        {
            return Ok(Some(living.until - now));
        }
        let living = Living {
            handle: self.handle()?.number,
            labels: labels.clone(),
            until: now + span,
            report: Bytes::new(),
        };
        inner.nodes.living.insert(node.clone(), living);
        self.set_node(Some(node.clone()))?;
        self.tell(&inner, |told| told.nodes = true);
        Ok(None)
    }

    async fn renew(&self, span: Duration, report: Option<Bytes>) -> Result<(), StoreError> {
        let mut inner = self.lock()?;
        let living = self.living(&mut inner)?;
        living.until = Instant::now() + span;
        let told = report.is_some();
        living.report = report.unwrap_or_else(|| living.report.clone());
        if told {
            self.tell(&inner, |told| told.nodes = true);
        }
        Ok(())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let mut inner = self.lock()?;
        if self.living(&mut inner).is_ok()
            && let Some(node) = self.node()
        {
            inner.nodes.living.remove(&node);
            self.tell(&inner, |told| told.nodes = true);
        }
        self.set_node(None)
    }

    async fn bury(&self) -> Result<Vec<NodeId>, StoreError> {
        let mut inner = self.lock()?;
        let now = Instant::now();
        let living = &mut inner.nodes.living;
        let passed = living.iter().filter(|(_, living)| living.until <= now);
        let passed: Vec<_> = passed.map(|(node, _)| node.clone()).collect();
        for node in &passed {
            living.remove(node);
        }
        if !passed.is_empty() {
            self.tell(&inner, |told| told.nodes = true);
        }
        Ok(passed)
    }

    async fn orphans(&self, level: Level, limit: usize) -> Result<Vec<Task>, StoreError> {
        let inner = self.lock()?;
        let tasks = inner.live.iter().filter_map(|id| inner.tasks.get(id));
        let tasks = tasks.map(|kept| &kept.task);
        let orphaned = |task: &&Task| {
            let owner = task.lease.as_ref().map(|lease| &lease.node);
            let lives = |node| inner.nodes.living.contains_key(node);
            let known = task.follows_at(level);
            task.state.is_active() && !task.is_chain() && known && !owner.is_some_and(lives)
        };
        Ok(tasks.filter(orphaned).take(limit).cloned().collect())
    }

    async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        let inner = self.lock()?;
        let now = Instant::now();
        let living = inner.nodes.living.iter();
        let living = living.filter(|(_, living)| living.until > now);
        let node = |(id, living): (&NodeId, &Living)| Node {
            id: id.clone(),
            labels: living.labels.clone(),
            report: living.report.clone(),
        };
        Ok(living.map(node).collect())
    }

    async fn control(&self) -> Result<Control, StoreError> {
        let inner = self.lock()?;
        Ok(Control {
            revision: inner.nodes.revision,
            paused: inner.nodes.paused.clone(),
            hold: inner.nodes.hold.clone(),
            context_revision: inner.context.revision,
            has_budget: inner.funds.limit.is_some(),
        })
    }

    async fn set_control(&self, control: Control) -> Result<u64, StoreError> {
        let mut inner = self.lock()?;
        let nodes = &mut inner.nodes;
        if nodes.revision != control.revision {
            return Err(StoreError::Conflict);
        }
        nodes.revision += 1;
        nodes.paused = control.paused;
        nodes.hold = control.hold;
        let revision = nodes.revision;
        self.tell(&inner, |told| told.control = true);
        Ok(revision)
    }

    async fn queued(&self) -> Result<HashMap<CallerId, u64>, StoreError> {
        let inner = self.lock()?;
        let mut queued = HashMap::new();
        for task in inner.live.iter().filter_map(|id| inner.tasks.get(id)) {
            let task = &task.task;
            if task.state == State::Queued && !task.is_chain() {
                *queued.entry(task.caller.clone()).or_default() += 1;
            }
        }
        Ok(queued)
    }

    async fn ask(
        &self,
        node: &NodeId,
        question: Bytes,
        span: Duration,
    ) -> Result<Uuid, StoreError> {
        let mut inner = self.lock()?;
        let now = Instant::now();
        inner.nodes.questions.retain(|_, asked| asked.until > now);
        let id = Uuid::now_v7();
        let asked = Asked {
            by: self.handle()?.number,
            node: node.clone(),
            question,
            taken: false,
            answer: None,
            until: now + span,
        };
        inner.nodes.questions.insert(id, asked);
        self.tell(&inner, |told| told.questions = true);
        Ok(id)
    }

    async fn asked(&self) -> Result<Vec<Question>, StoreError> {
        let mut inner = self.lock()?;
        let node = self.node();
        let questions = inner.nodes.questions.iter_mut();
        let own = questions.filter(|(_, asked)| !asked.taken && Some(&asked.node) == node.as_ref());
        let take = |(id, asked): (&Uuid, &mut Asked)| {
            asked.taken = true;
            Question {
                id: *id,
                bytes: asked.question.clone(),
            }
        };
        Ok(own.map(take).collect())
    }

    async fn answer(&self, question: Uuid, answer: Bytes) -> Result<(), StoreError> {
        let mut inner = self.lock()?;
        if let Some(asked) = inner.nodes.questions.get_mut(&question) {
            asked.answer = Some(answer);
            self.tell(&inner, |told| told.questions = true);
        }
        Ok(())
    }

    async fn answered(&self, question: Uuid) -> Result<Option<Bytes>, StoreError> {
        let mut inner = self.lock()?;
        let number = self.handle()?.number;
        let questions = &mut inner.nodes.questions;
        let asked = questions
            .get_mut(&question)
            .filter(|asked| asked.by == number);
        let answer = asked.and_then(|asked| asked.answer.take());
        if answer.is_some() {
            questions.remove(&question);
        }
        Ok(answer)
    }

    async fn told(&self) -> Told {
        let Ok(handle) = self.handle() else {
            return std::future::pending().await;
        };
        loop {
            let told = handle.inbox.take();
            if !told.is_empty() {
                return told;
            }
            handle.inbox.come.notified().await;
        }
    }
}
