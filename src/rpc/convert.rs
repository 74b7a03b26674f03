//! Wire messages to what the pool takes, and back.
//!
//! Every field of a request is checked here, except those of a `TaskSpec`: what
//! a task may ask for is a rule of the pool.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, Violation};
use crate::id::{GroupId, RequestId, SlotId, TaskId};
use crate::money::Microdollars;
use crate::pb;
use crate::pool::{Drained, Target, Work};
use crate::store::{Context, ContextValue, Filter};
use crate::task::{Record, State};
use crate::trace;

/// Most tasks of a fan-out.
const FAN_OUT_MAX: usize = 10_000;
/// Entries of a page that names no size, and the most of any.
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 1_000;
/// Longest silence of a stream, if the caller names none.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(15);
const HEARTBEAT_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// Longest wait for a result, or for slots that leave.
const WAIT_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Shortest time between two snapshots of the status.
const STATUS_DEFAULT: Duration = Duration::from_secs(1);
const STATUS_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// Longest wait for a drain.
const DRAIN_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);
/// Longest wait for slots that leave, if the caller names none.
const LEAVING_DEFAULT: Duration = Duration::from_secs(30);
/// Longest reason of a pause.
const PAUSE_REASON_MAX: usize = 1024;

type Checked<T> = Result<T, Violation>;

/// Gathers what is wrong, so that a caller hears of all of it at once.
#[derive(Default)]
struct Check(Vec<Violation>);

impl Check {
    fn take<T>(&mut self, checked: Checked<T>) -> Option<T> {
        checked.map_err(|violation| self.0.push(violation)).ok()
    }

    fn refuse<T>(self) -> Result<T, Error> {
        Err(Error::Invalid(self.0))
    }
}

fn one(violation: Violation) -> Error {
    Error::Invalid(vec![violation])
}

// Single fields.

fn id<T: FromStr>(field: &str, text: &str) -> Checked<T> {
    if text.is_empty() {
        return Err(Violation::new(field, "is required"));
    }
    text.parse()
        .map_err(|_| Violation::new(field, "must be a UUID of 36 characters"))
}

fn optional_id<T: FromStr>(field: &str, text: &str) -> Checked<Option<T>> {
    if text.is_empty() {
        return Ok(None);
    }
    id(field, text).map(Some)
}

fn request_id(text: &str) -> Checked<Option<RequestId>> {
    optional_id("request_id", text)
}

fn duration(
    field: &str,
    value: Option<&prost_types::Duration>,
    range: &RangeInclusive<Duration>,
) -> Checked<Option<Duration>> {
    let Some(value) = value else {
        return Ok(None);
    };
    let parts = (u64::try_from(value.seconds), u32::try_from(value.nanos));
    let duration = match parts {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => {
            Some(Duration::new(seconds, nanos)).filter(|d| range.contains(d))
        }
        _ => None,
    };
    duration.map(Some).ok_or_else(|| {
        Violation::new(
            field,
            format!("must be {:?} to {:?}", range.start(), range.end()),
        )
    })
}

fn heartbeat(value: Option<&prost_types::Duration>) -> Checked<Duration> {
    duration("heartbeat_interval", value, &HEARTBEAT_RANGE).map(|d| d.unwrap_or(HEARTBEAT_DEFAULT))
}

fn timestamp(field: &str, value: Option<&prost_types::Timestamp>) -> Checked<Option<Timestamp>> {
    value
        .map(|value| {
            Timestamp::from_proto(value)
                .ok_or_else(|| Violation::new(field, "must be a time in the years 1 to 9999"))
        })
        .transpose()
}

fn spec(task: Option<pb::TaskSpec>) -> Checked<pb::TaskSpec> {
    task.ok_or_else(|| Violation::new("task", "is required"))
}

fn size(value: i32) -> Checked<usize> {
    match usize::try_from(value) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(n) => Ok(n.min(PAGE_MAX)),
        Err(_) => Err(Violation::new("page_size", "must not be negative")),
    }
}

/// A required text.
pub fn required(field: &str, text: String) -> Result<String, Error> {
    if text.is_empty() {
        return Err(Error::invalid(field, "is required"));
    }
    Ok(text)
}

/// A message that must not be left out.
pub fn present<T>(field: &str, message: Option<T>) -> Result<T, Error> {
    message.ok_or_else(|| Error::invalid(field, "is required"))
}

/// A required task id.
pub fn task_id(text: &str) -> Result<TaskId, Error> {
    let id = id("task_id", text).map_err(one)?;
    trace::about(id);
    Ok(id)
}

/// The size of a page.
pub fn page_size(value: i32) -> Result<usize, Error> {
    size(value).map_err(one)
}

// Requests.

fn work(task: Option<pb::TaskSpec>, request: &str, detach: bool) -> Result<Work, Error> {
    let mut check = Check::default();
    let spec = check.take(spec(task));
    let request = check.take(request_id(request));
    let (Some(spec), Some(request)) = (spec, request) else {
        return check.refuse();
    };
    Ok(Work {
        spec,
        request,
        detach,
    })
}

/// Run.
pub fn run(r: pb::RunRequest) -> Result<Work, Error> {
    work(r.task, &r.request_id, r.detach)
}

/// Submit.
pub fn submit(r: pb::SubmitRequest) -> Result<Work, Error> {
    work(r.task, &r.request_id, true)
}

/// RunStream: the work, after which sequence, and the longest silence.
pub fn run_stream(r: pb::RunStreamRequest) -> Result<(Work, u64, Duration), Error> {
    let mut check = Check::default();
    let spec = check.take(spec(r.task));
    let request = check.take(request_id(&r.request_id));
    let interval = check.take(heartbeat(r.heartbeat_interval.as_ref()));
    let (Some(spec), Some(request), Some(interval)) = (spec, request, interval) else {
        return check.refuse();
    };
    let work = Work {
        spec,
        request,
        detach: r.detach,
    };
    Ok((work, r.after_sequence, interval))
}

/// GetResult: the task and how long to wait.
pub fn get_result(r: &pb::GetResultRequest) -> Result<(TaskId, Duration), Error> {
    let mut check = Check::default();
    let task = check.take(id("task_id", &r.task_id));
    let wait = check.take(duration("wait", r.wait.as_ref(), &WAIT_RANGE));
    let (Some(task), Some(wait)) = (task, wait) else {
        return check.refuse();
    };
    Ok((task, wait.unwrap_or_default()))
}

/// ReadOutput: the task, the first byte, and the longest silence.
pub fn read_output(r: &pb::ReadOutputRequest) -> Result<(TaskId, u64, Duration), Error> {
    let mut check = Check::default();
    let task = check.take(id("task_id", &r.task_id));
    let offset = check.take(
        u64::try_from(r.offset).map_err(|_| Violation::new("offset", "must not be negative")),
    );
    let interval = check.take(heartbeat(r.heartbeat_interval.as_ref()));
    let (Some(task), Some(offset), Some(interval)) = (task, offset, interval) else {
        return check.refuse();
    };
    Ok((task, offset, interval))
}

/// WatchTask: the task, after which sequence, and the longest silence.
pub fn watch_task(r: &pb::WatchTaskRequest) -> Result<(TaskId, u64, Duration), Error> {
    let mut check = Check::default();
    let task = check.take(id("task_id", &r.task_id));
    let interval = check.take(heartbeat(r.heartbeat_interval.as_ref()));
    let (Some(task), Some(interval)) = (task, interval) else {
        return check.refuse();
    };
    Ok((task, r.after_sequence, interval))
}

/// WatchChain: the chain and the longest silence.
pub fn watch_chain(r: &pb::WatchChainRequest) -> Result<(TaskId, Duration), Error> {
    let mut check = Check::default();
    let task = check.take(id("task_id", &r.task_id));
    let interval = check.take(heartbeat(r.heartbeat_interval.as_ref()));
    let (Some(task), Some(interval)) = (task, interval) else {
        return check.refuse();
    };
    Ok((task, interval))
}

/// CancelChain: the chain, and whether its current step is cancelled too.
pub fn cancel_chain(r: &pb::CancelChainRequest) -> Result<(TaskId, bool), Error> {
    let mut check = Check::default();
    let task = check.take(id("task_id", &r.task_id));
    let mode = check.take(match pb::CancelChainMode::try_from(r.mode) {
        Ok(pb::CancelChainMode::Unspecified | pb::CancelChainMode::AfterStep) => Ok(false),
        Ok(pb::CancelChainMode::Now) => Ok(true),
        Err(_) => Err(Violation::new(
            "mode",
            "is no CancelChainMode that this server knows",
        )),
    });
    let (Some(task), Some(now)) = (task, mode) else {
        return check.refuse();
    };
    Ok((task, now))
}

/// The request_id of a call that has nothing else to check here.
pub fn request(text: &str) -> Result<Option<RequestId>, Error> {
    request_id(text).map_err(one)
}

/// Cancel.
pub fn cancel(r: &pb::CancelRequest) -> Result<Target, Error> {
    use pb::cancel_request::Target as Wire;
    let target = match &r.target {
        Some(Wire::TaskId(text)) => id("task_id", text).map(Target::Task),
        Some(Wire::GroupId(text)) => id("group_id", text).map(Target::Group),
        None => Err(Violation::new("target", "task_id or group_id is required")),
    };
    target.map_err(one)
}

/// FanOut: the specs, the request, whether to detach, and the longest silence.
pub fn fan_out(
    r: pb::FanOutRequest,
) -> Result<(Vec<pb::TaskSpec>, Option<RequestId>, bool, Duration), Error> {
    let mut check = Check::default();
    let specs = check.take(if (1..=FAN_OUT_MAX).contains(&r.tasks.len()) {
        Ok(r.tasks)
    } else {
        Err(Violation::new("tasks", "must be 1 to 10000"))
    });
    let request = check.take(request_id(&r.request_id));
    let interval = check.take(heartbeat(r.heartbeat_interval.as_ref()));
    let (Some(specs), Some(request), Some(interval)) = (specs, request, interval) else {
        return check.refuse();
    };
    Ok((specs, request, r.detach, interval))
}

/// ListTasks as the pool takes it.
#[derive(Debug)]
pub struct List {
    /// Which tasks; the caller is the pool's business.
    pub filter: Filter,
    /// How many.
    pub page_size: usize,
    /// From where on.
    pub page_token: String,
    /// With spec and result.
    pub full: bool,
}

/// ListTasks.
pub fn list_tasks(r: pb::ListTasksRequest) -> Result<List, Error> {
    let mut check = Check::default();
    let f = r.filter.unwrap_or_default();
    let mut states = Vec::with_capacity(f.states.len());
    for (i, number) in f.states.iter().enumerate() {
        states.extend(
            check.take(
                State::from_number(*number)
                    .ok_or_else(|| Violation::new(format!("filter.states[{i}]"), "is no state")),
            ),
        );
    }
    let from = check.take(timestamp("filter.created_from", f.created_from.as_ref()));
    let before = check.take(timestamp(
        "filter.created_before",
        f.created_before.as_ref(),
    ));
    let group = check.take(optional_id::<GroupId>("filter.group_id", &f.group_id));
    let parent = check.take(optional_id("filter.parent_task_id", &f.parent_task_id));
    let page_size = check.take(size(r.page_size));
    let full = check.take(match pb::TaskView::try_from(r.view) {
        Ok(pb::TaskView::Unspecified | pb::TaskView::Basic) => Ok(false),
        Ok(pb::TaskView::Full) => Ok(true),
        Err(_) => Err(Violation::new("view", "is no view")),
    });
    if !check.0.is_empty() {
        return check.refuse();
    }
    let (Some(from), Some(before), Some(group), Some(parent), Some(page_size), Some(full)) =
        (from, before, group, parent, page_size, full)
    else {
        return check.refuse();
    };
    Ok(List {
        filter: Filter {
            caller: None,
            states,
            slot: (!f.slot_id.is_empty()).then_some(SlotId(f.slot_id)),
            any_tags: f.any_tags,
            created_from: from,
            created_before: before,
            group,
            parent,
            include_steps: f.include_steps,
        },
        page_size,
        page_token: r.page_token,
        full,
    })
}

/// WatchStatus: the node, the shortest time between snapshots, and the longest
/// silence.
pub fn watch_status(r: pb::WatchStatusRequest) -> Result<(String, Duration, Duration), Error> {
    let mut check = Check::default();
    let interval = check.take(duration("interval", r.interval.as_ref(), &STATUS_RANGE));
    let silence = check.take(heartbeat(r.heartbeat_interval.as_ref()));
    let (Some(interval), Some(silence)) = (interval, silence) else {
        return check.refuse();
    };
    Ok((r.node_id, interval.unwrap_or(STATUS_DEFAULT), silence))
}

/// Drain: how long to wait; `None`: as the server is set up.
pub fn drain_deadline(r: &pb::DrainRequest) -> Result<Option<Duration>, Error> {
    duration("deadline", r.deadline.as_ref(), &DRAIN_RANGE).map_err(one)
}

/// Retry: the finished task, and the request.
pub fn retry(r: &pb::RetryRequest) -> Result<(TaskId, Option<RequestId>), Error> {
    let mut check = Check::default();
    let task = check.take(id("task_id", &r.task_id));
    let request = check.take(request_id(&r.request_id));
    let (Some(task), Some(request)) = (task, request) else {
        return check.refuse();
    };
    Ok((task, request))
}

fn slots(field: &str, value: i32, least: u32) -> Checked<u32> {
    u32::try_from(value)
        .ok()
        .filter(|n| *n >= least)
        .ok_or_else(|| Violation::new(field, format!("must be {least} or more")))
}

fn leaving(value: Option<&prost_types::Duration>) -> Checked<Duration> {
    duration("timeout", value, &WAIT_RANGE).map(|d| d.unwrap_or(LEAVING_DEFAULT))
}

/// ScaleUp: how many, and the request.
pub fn scale_up(r: &pb::ScaleUpRequest) -> Result<(u32, Option<RequestId>), Error> {
    let mut check = Check::default();
    let count = check.take(slots("count", r.count, 1));
    let request = check.take(request_id(&r.request_id));
    let (Some(count), Some(request)) = (count, request) else {
        return check.refuse();
    };
    Ok((count, request))
}

/// ScaleDown: how many, the request, and how long to wait.
pub fn scale_down(r: &pb::ScaleDownRequest) -> Result<(u32, Option<RequestId>, Duration), Error> {
    let mut check = Check::default();
    let count = check.take(slots("count", r.count, 1));
    let request = check.take(request_id(&r.request_id));
    let timeout = check.take(leaving(r.timeout.as_ref()));
    let (Some(count), Some(request), Some(timeout)) = (count, request, timeout) else {
        return check.refuse();
    };
    Ok((count, request, timeout))
}

/// SetTargetSlots: how many in all, and how long to wait.
pub fn set_target_slots(r: &pb::SetTargetSlotsRequest) -> Result<(u32, Duration), Error> {
    let mut check = Check::default();
    let target = check.take(slots("target", r.target, 0));
    let timeout = check.take(leaving(r.timeout.as_ref()));
    let (Some(target), Some(timeout)) = (target, timeout) else {
        return check.refuse();
    };
    Ok((target, timeout))
}

/// Pause: why.
pub fn pause(r: pb::PauseRequest) -> Result<String, Error> {
    if r.reason.len() > PAUSE_REASON_MAX {
        return Err(Error::invalid("reason", "must be at most 1 KiB"));
    }
    Ok(r.reason)
}

/// SetBudget: the most that may be spent; `None`: no limit.
pub fn set_budget(r: &pb::SetBudgetRequest) -> Result<Option<Microdollars>, Error> {
    if r.budget_microdollars.is_some_and(|budget| budget < 0) {
        return Err(Error::invalid("budget_microdollars", "must be 0 or more"));
    }
    Ok(r.budget_microdollars.map(Microdollars))
}

// Answers.

/// How much of a task is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The row alone.
    Row,
    /// The row and the result.
    WithoutSpec,
    /// Everything that was read.
    Whole,
}

/// A count that the wire has as a signed number.
pub fn count(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A number that the wire has as a signed one.
pub fn revision(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A task.
pub fn task(record: Record, shown: Shown) -> pb::Task {
    let Record { task, spec, result } = record;
    let spec = spec
        .filter(|_| shown == Shown::Whole)
        .map(Arc::unwrap_or_clone);
    let (received, effective, chain) = match spec {
        Some(spec) => (Some(spec.received), Some(spec.effective), spec.chain),
        None => (None, None, None),
    };
    let text = |id: Option<String>| id.unwrap_or_default();
    pb::Task {
        task_id: task.id.to_string(),
        state: task.state.to_proto() as i32,
        spec: received,
        effective_settings: effective,
        result: result
            .filter(|_| shown != Shown::Row)
            .map(Arc::unwrap_or_clone),
        create_time: Some(task.create_time.to_proto()),
        ready_time: Some(task.ready_time.to_proto()),
        start_time: task.start_time.map(Timestamp::to_proto),
        end_time: task.end_time.map(Timestamp::to_proto),
        attempt: count(task.attempt),
        slot_id: text(task.slot.map(|s| s.0)),
        node_id: text(task.lease.map(|l| l.node.0)),
        session_id: task.session_id,
        last_sequence: task.last_sequence,
        cost_microdollars: task.cost.0,
        tags: task.tags,
        group_id: text(task.group.map(|g| g.to_string())),
        step_index: task.parent.map_or(0, |_| count(task.place)),
        parent_task_id: text(task.parent.map(|p| p.to_string())),
        request_id: text(task.request.map(|r| r.to_string())),
        context_revision: revision(task.context_revision),
        abandon_time: task.abandon_time.map(Timestamp::to_proto),
        chain,
        caller: task.caller.0,
        trace_parent: text(task.trace.map(|trace| trace.parent().to_owned())),
    }
}

/// A task without its spec, and its result beside it: sent once, since it may
/// be large.
pub fn task_and_result(mut record: Record) -> (pb::Task, Option<pb::TaskResult>) {
    let result = record.result.take().map(Arc::unwrap_or_clone);
    (task(record, Shown::Row), result)
}

/// A task of a fan-out that ended.
pub fn fan_out_item(index: u32, record: Record) -> pb::FanOutItem {
    pb::FanOutItem {
        index: count(index),
        task_id: record.task.id.to_string(),
        state: record.task.state.to_proto() as i32,
        result: record.result.map(Arc::unwrap_or_clone),
    }
}

/// What a drain did.
pub fn drained(drained: Drained) -> pb::DrainResponse {
    pb::DrainResponse {
        tasks_completed: revision(drained.tasks_completed),
        total_cost_microdollars: drained.cost.0,
        tasks_left: revision(drained.tasks_left),
    }
}

/// A key of the shared context.
pub fn context_entry(key: String, value: ContextValue) -> pb::ContextEntry {
    pb::ContextEntry {
        key,
        value: value.value,
        update_time: Some(value.update_time.to_proto()),
    }
}

/// A page of the shared context: the keys after the token, which is the last
/// key of the page before.
pub fn context_page(
    context: &Context,
    page_size: usize,
    page_token: &str,
) -> pb::ListContextResponse {
    let revision = revision(context.revision);
    let mut rest = context
        .entries
        .iter()
        .filter(|(key, _)| key.as_str() > page_token);
    let entries: Vec<_> = rest
        .by_ref()
        .take(page_size)
        .map(|(key, value)| context_entry(key.clone(), value.clone()))
        .collect();
    let more = rest.next().is_some();
    let next_page_token = entries.last().filter(|_| more).map(|e| e.key.clone());
    pb::ListContextResponse {
        entries,
        next_page_token: next_page_token.unwrap_or_default(),
        revision,
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
