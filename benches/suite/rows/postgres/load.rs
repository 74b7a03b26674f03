//! What servers ask of the database: idle, for each task, and by wakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use claudepool::pb::pool_service_client::PoolServiceClient;
use futures_util::future::poll_fn;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::{IDLE, LIFE, Place, ROUNDS_MAX, WAKES};
use crate::database::Database;
use crate::measure::{Failure, Row, callers};
use crate::server::{Server, submit};

const SERVERS: usize = 3;
const IDLE_SLOTS: u32 = 100;
const SLOTS: u32 = 32;
const CALLERS: usize = 64;
const TELLERS: usize = 4;
const LISTENERS: usize = 50;
/// Between two looks at what has ended.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS_MAX: f64 = 3000.0;

pub async fn measure(row: &mut Row, place: &Place, database: &Database) -> Result<(), Failure> {
    // First, on a database that has nothing to tidy.
    idle(row, place, database).await?;
    lives(row, place, database).await?;
    wakes(row, place, database).await
}

async fn idle(row: &mut Row, place: &Place, database: &Database) -> Result<(), Failure> {
    const NAME: &str = "idle";
    let url = database.create(NAME).await?;
    let mut servers = Vec::new();
    for number in 0..SERVERS {
        servers.push(Server::node(&url, &format!("n{number}"), IDLE_SLOTS)?);
    }
    let all = SERVERS as i32 * IDLE_SLOTS as i32;
    servers[0].wait(|status| status.slots_idle == all).await?;
    let admin = database.client("postgres").await?;
    // What the start and the waiting asked is counted up to ten seconds later.
    tokio::time::sleep(Duration::from_secs(place.size.of(1, 11))).await;
    let (before, begun) = (database.load(&admin, NAME).await?, Instant::now());
    tokio::time::sleep(Duration::from_secs(place.size.of(5, 10))).await;
    let load = database.load(&admin, NAME).await?.since(before);
    let each = begun.elapsed().as_secs_f64() * SERVERS as f64;
    let connections = database.connections(&admin, NAME).await? / SERVERS as f64;
    for (way, servers) in [
        (IDLE.to_owned(), 1.0),
        ("1,000 idle slots, 200 a server".to_owned(), 5.0),
        ("1,000 idle slots, 50 a server".to_owned(), 20.0),
    ] {
        let transactions = load.transactions / each * servers;
        row.add("transactions/s", &way, transactions);
        row.add("processor ms/s", &way, load.processor / each * servers);
        row.add("connections", &way, connections * servers);
    }
    Ok(())
}

async fn lives(row: &mut Row, place: &Place, database: &Database) -> Result<(), Failure> {
    const NAME: &str = "lives";
    let url = database.create(NAME).await?;
    let servers = [
        Server::node(&url, "a", SLOTS)?,
        Server::node(&url, "b", SLOTS)?,
    ];
    let all = 2 * SLOTS as i32;
    for server in &servers {
        server.wait(|status| status.slots_idle == all).await?;
    }
    let mut channels = servers[0].connect(4).await?;
    channels.extend(servers[1].connect(4).await?);
    let admin = database.client("postgres").await?;
    let looking = database.client(NAME).await?;
    let span = Duration::from_millis(place.size.of(500, 1000));
    let mut ended = 0.0;
    for _ in 0..place.size.rounds.min(ROUNDS_MAX) {
        let (before, begun) = (database.load(&admin, NAME).await?, Instant::now());
        let made = callers(CALLERS, span, |number| {
            let client = PoolServiceClient::new(channels[number % channels.len()].clone());
            move || {
                let mut client = client.clone();
                async move {
                    client.submit(submit("say ok")).await?;
                    Ok(())
                }
            }
        });
        let tasks = made.await?.times.len() as f64;
        let looks = until_ended(&looking, ended + tasks).await?;
        ended += tasks;
        row.add("tasks/s", LIFE, tasks / begun.elapsed().as_secs_f64());
        // What was done last is counted a second later.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let load = database.load(&admin, NAME).await?.since(before);
        row.add("transactions", LIFE, (load.transactions - looks) / tasks);
        row.add("processor ms", LIFE, load.processor / tasks);
        row.add("KiB of log", LIFE, load.log / tasks / 1024.0);
    }
    Ok(())
}

/// Waits until so many tasks have ended; how often it looked.
async fn until_ended(client: &Client, tasks: f64) -> Result<f64, Failure> {
    let sql = "SELECT sum(state_4 + state_5 + state_6 + state_7)::float8 FROM books";
    let mut looks = 0.0;
    while looks < LOOKS_MAX {
        looks += 1.0;
        let ended: f64 = client.query_one(sql, &[]).await?.try_get(0)?;
        if ended >= tasks {
            return Ok(looks);
        }
        tokio::time::sleep(LOOK).await;
    }
    Err("the tasks do not end".into())
}

async fn wakes(row: &mut Row, place: &Place, database: &Database) -> Result<(), Failure> {
    const NAME: &str = "wakes";
    let url = database.create(NAME).await?;
    let heard = Arc::new(AtomicU64::new(0));
    let mut listeners = Vec::new();
    for _ in 0..LISTENERS {
        listeners.push(listen(&url, &heard).await?);
    }
    let tellers = database.clients(NAME, TELLERS).await?;
    let wake = "x".repeat(200);
    let span = Duration::from_millis(place.size.of(250, 1000));
    for _ in 0..place.size.rounds.min(ROUNDS_MAX) {
        let (before, begun) = (heard.load(Ordering::SeqCst), Instant::now());
        let told = callers(TELLERS, span, |number| {
            let (client, wake) = (Arc::clone(&tellers[number]), wake.clone());
            move || {
                let (client, wake) = (Arc::clone(&client), wake.clone());
                async move {
                    client
                        .execute("SELECT pg_notify('bench', $1)", &[&wake])
                        .await?;
                    Ok(())
                }
            }
        });
        row.add("wakes/s", WAKES, told.await?.rate);
        let all = (heard.load(Ordering::SeqCst) - before) as f64;
        row.add("heard/s", WAKES, all / begun.elapsed().as_secs_f64());
    }
    Ok(())
}

/// A connection that counts what it hears for as long as its client is kept.
async fn listen(url: &str, heard: &Arc<AtomicU64>) -> Result<Client, Failure> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let heard = Arc::clone(heard);
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(_) = message {
                heard.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    client.batch_execute("LISTEN bench").await?;
    Ok(client)
}
