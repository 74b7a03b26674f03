//! One operation at a time is begun; each goes on by itself.

use std::sync::Arc;
use std::time::Duration;

use claudepool::error::Error;
use claudepool::id::TaskId;
use claudepool::money::Microdollars;
use claudepool::pb;
use claudepool::pool::{FanOut, Pool, Running, Scale, Target};
use futures_util::FutureExt;

use super::history::marker;
use super::plan::{Call, Kind, Op};
use super::specs;
use super::world::{World, caller};

/// How long callers wait for a result.
const WAIT: Duration = Duration::from_secs(6 * 3600);

/// What one server alone does waits for nobody.
fn at_once(done: impl Future<Output = Result<(), Error>>) {
    let done = done.now_or_never().expect("at once");
    done.expect("a pause is in memory");
}

/// Begins an operation.
pub fn begin(world: &Arc<World>, pool: &Pool, op: &Op) {
    let (world, pool, op) = (Arc::clone(world), pool.clone(), op.clone());
    world.shared.lock().count(word(&op));
    match op {
        Op::Pause => {
            at_once(pool.pause("simulated"));
            world.shared.lock().paused = true;
        }
        Op::Resume => {
            world.shared.lock().paused = false;
            at_once(pool.resume());
        }
        Op::Crash(after, made) => world.shared.lock().crash_after = Some((after, made)),
        Op::Store(fault, ms) => world.shared.lock().break_store(fault, ms),
        Op::Agent(fault, ms) => world.shared.lock().break_agent(fault, ms),
        Op::Kill => world.shared.kill.notify_waiters(),
        op => drop(tokio::spawn(async move { go_on(&world, &pool, op).await })),
    }
}

fn word(op: &Op) -> &'static str {
    match op {
        Op::Call(_) => "call that makes work",
        Op::Cancel(_) => "cancel",
        Op::CancelGroup(_) => "cancel of a group",
        Op::CancelChain(..) => "cancel of a chain",
        Op::Retry(_) => "retry",
        Op::Watch(..) => "watch",
        Op::Pause => "pause",
        Op::Resume => "resume",
        Op::Scale(_) => "scale",
        Op::Budget(_) => "budget",
        Op::RestartSlot(_) => "restart of a slot",
        Op::Drain(_) => "drain",
        Op::Crash(..) => "crash ordered",
        Op::Store(..) => "store fault",
        Op::Agent(..) => "agent fault",
        Op::Kill => "kill of all processes",
    }
}

fn choose<T: Copy>(of: &[T], any: u64) -> Option<T> {
    match of.len() as u64 {
        0 => None,
        len => of.get((any % len) as usize).copied(),
    }
}

async fn go_on(world: &Arc<World>, pool: &Pool, op: Op) {
    match op {
        Op::Call(place) => call(world, pool, place).await,
        Op::Cancel(any) => {
            let Some((task, of)) = choose(&world.known().tasks, any) else {
                return;
            };
            let pool = pool.for_caller(caller(of));
            if expected(world, pool.cancel(Target::Task(task)).await).is_some() {
                world.shared.lock().history.cancelled.insert(task);
            }
        }
        Op::CancelGroup(any) => {
            let Some((group, of)) = choose(&world.known().groups, any) else {
                return;
            };
            let pool = pool.for_caller(caller(of));
            expected(world, pool.cancel(Target::Group(group)).await);
        }
        Op::CancelChain(any, now) => {
            let Some((chain, of)) = choose(&world.known().chains, any) else {
                return;
            };
            let pool = pool.for_caller(caller(of));
            if expected(world, pool.cancel_chain(chain, now).await).is_some() {
                world.shared.lock().history.cancelled.insert(chain);
            }
        }
        Op::Retry(any) => retry(world, pool, any).await,
        Op::Watch(any, after, reattach) => {
            let Some((task, of)) = choose(&world.known().tasks, any) else {
                return;
            };
            let view = world.view(task, of, after, reattach);
            watch(world, pool, view);
        }
        Op::Scale(to) => {
            let scaled = pool.scale(Scale::To(to), None, Duration::from_secs(5));
            // The last one that was carried out holds.
            world.known().target = to;
            expected(world, scaled.await);
        }
        Op::Budget(limit) => {
            expected(world, pool.set_budget(limit.map(Microdollars)).await);
        }
        Op::RestartSlot(any) => {
            let slot = format!("slot-{}", any % 4);
            let _ = pool.restart_slot(&slot.as_str().into()).await;
        }
        Op::Pause
        | Op::Resume
        | Op::Drain(_)
        | Op::Crash(..)
        | Op::Store(..)
        | Op::Agent(..)
        | Op::Kill => {}
    }
}

/// A refusal that a caller may meet here is none to worry about.
fn expected<T>(world: &World, answer: Result<T, Error>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(
            Error::Store(_)
            | Error::Paused
            | Error::Draining
            | Error::BudgetExhausted
            | Error::TaskFinished(_)
            | Error::TaskNotFinished(_),
        ) => None,
        Err(error) => {
            world.wrong(format!("refused: {error}"));
            None
        }
    }
}

async fn call(world: &Arc<World>, pool: &Pool, place: usize) {
    let call = &world.plan.calls[place];
    let pool = pool.for_caller(caller(call.caller));
    match &call.kind {
        Kind::Submit(job) => {
            let made = pool.submit(specs::work(call, job, false)).await;
            if let Some(task) = expected(world, made) {
                answered(world, place, call, &[task], false);
            }
        }
        Kind::Run(job) => {
            let ran = pool.run(specs::work(call, job, false)).await;
            if let Some(record) = expected(world, ran) {
                answered(world, place, call, &[record.task.id], false);
                told(world, record.task.id, record.task.state);
            }
        }
        Kind::Start(job, leave) => {
            let detach = leave.is_none() && place.is_multiple_of(2);
            let started = pool.start(specs::work(call, job, detach)).await;
            if let Some(running) = expected(world, started) {
                answered(world, place, call, &[running.task], false);
                stay(world, &pool, running, *leave).await;
            }
        }
        Kind::FanOut(jobs, leave) => {
            let specs = jobs.iter().map(specs::spec).collect();
            let detach = leave.is_none() && place.is_multiple_of(2);
            let made = pool.fan_out(specs, call.request, detach).await;
            if let Some(fan_out) = expected(world, made) {
                let tasks = fan_out.tasks.to_vec();
                answered(world, place, call, &tasks, false);
                world.known().groups.push((fan_out.group, call.caller));
                outcomes(world, fan_out, *leave).await;
            }
        }
        Kind::Chain(chain) => {
            let options = Some(specs::chain_options(chain));
            let made = pool.submit_chain(specs::steps(chain), options, call.request);
            if let Some(task) = expected(world, made.await) {
                answered(world, place, call, &[task], true);
            }
        }
        Kind::FanOutChains(chains) => {
            // One set of options, so one tag, for all of them.
            let options = chains.first().map(specs::chain_options);
            let chains = chains.iter().map(|chain| pb::ChainRequest {
                steps: specs::steps(chain),
            });
            let made = pool.fan_out_chains(chains.collect(), options, call.request);
            if let Some((group, tasks)) = expected(world, made.await) {
                answered(world, place, call, &tasks, true);
                world.known().groups.push((group, call.caller));
            }
        }
    }
}

fn answered(world: &World, place: usize, call: &Call, tasks: &[TaskId], chains: bool) {
    {
        let mut known = world.known();
        for task in tasks {
            known.tasks.push((*task, call.caller));
            if chains {
                known.chains.push((*task, call.caller));
            }
        }
    }
    let mut state = world.shared.lock();
    let names: Vec<_> = tasks.iter().map(|task| state.name(*task)).collect();
    state.say(|_| format!("call {place} made {names:?}"));
    state.history.answers.push((place, tasks.to_vec()));
}

fn told(world: &World, task: TaskId, state: claudepool::task::State) {
    world.shared.lock().history.told.push((task, state));
}

/// An attached caller, until it leaves or all is over.
async fn stay(world: &World, pool: &Pool, running: Running, leave: Option<u64>) {
    if let Some(ms) = leave {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        return drop(running.attachment);
    }
    loop {
        match pool.result(running.task, WAIT).await {
            Ok(record) => {
                told(world, running.task, record.task.state);
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
    if let Some(attachment) = running.attachment {
        attachment.is_over();
    }
}

async fn outcomes(world: &World, mut fan_out: FanOut, leave: Option<u64>) {
    let read = async {
        let mut places = Vec::new();
        loop {
            match fan_out.next().await {
                Ok(Some((place, record))) => {
                    places.push(place);
                    told(world, record.task.id, record.task.state);
                }
                Ok(None) => break,
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
        places.sort_unstable();
        if places != (0..fan_out.tasks.len() as u32).collect::<Vec<_>>() {
            world.wrong(format!("a fan-out told of {places:?}"));
        }
    };
    let _ = tokio::time::timeout(leave.map_or(WAIT, Duration::from_millis), read).await;
}

async fn retry(world: &World, pool: &Pool, any: u64) {
    let Some((task, of)) = choose(&world.known().tasks, any) else {
        return;
    };
    let pool = pool.for_caller(caller(of));
    let Some(record) = expected(world, pool.task(task).await) else {
        return;
    };
    let marker = marker(&record);
    {
        let mut state = world.shared.lock();
        state.history.retried.entry(marker.clone()).or_default().0 += 1;
    }
    if let Some(made) = expected(world, pool.retry(task, None).await) {
        let mut state = world.shared.lock();
        state.history.retried.entry(marker).or_default().1 += 1;
        let name = state.name(made);
        state.say(|_| format!("retry made {name}"));
        drop(state);
        world.known().tasks.push((made, of));
    }
}

/// Goes on with a view, attaching again and again, until it is over.
pub fn watch(world: &Arc<World>, pool: &Pool, view: usize) {
    let (world, pool) = (Arc::clone(world), pool.clone());
    tokio::spawn(async move {
        loop {
            let (task, after, reattach) = {
                let history = &world.shared.lock().history;
                let view = &history.views[view];
                if view.over {
                    return;
                }
                let after = view.entries.last().map_or(view.after, |e| e.sequence);
                (view.task, after, view.reattach)
            };
            let of = world.shared.lock().history.views[view].caller;
            if read(
                &world,
                &pool.for_caller(caller(of)),
                view,
                task,
                after,
                reattach,
            )
            .await
            .is_err()
            {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    });
}

async fn read(
    world: &World,
    pool: &Pool,
    view: usize,
    task: TaskId,
    after: u64,
    most: u64,
) -> Result<(), Error> {
    let mut tail = pool.watch(task, after).await?;
    for _ in 0..most {
        let entry = tail.next().await?;
        let view = &mut world.shared.lock().history.views[view];
        match entry {
            Some(entry) => view.entries.push(entry),
            None => {
                view.over = true;
                return Ok(());
            }
        }
    }
    Ok(())
}
