//! A PostgreSQL of the run's own, on the disk that is measured, as it is when
//! nobody has configured it: every commit waits for the disk.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tokio_postgres::{Client, Config, NoTls};

use super::measure::Failure;
use super::proc::on_processor;

/// As the tests start it.
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../../tests/postgres/server.rs"]
mod starter;

/// The server. It is gone when this is.
pub struct Database(starter::Server);

/// What a database has done so far.
#[derive(Clone, Copy)]
pub struct Load {
    /// Transactions; a read without one is one.
    pub transactions: f64,
    /// Processor time of all its processes, in milliseconds.
    pub processor: f64,
    /// Bytes of its log.
    pub log: f64,
}

impl Load {
    /// Between two moments.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            transactions: self.transactions - earlier.transactions,
            processor: self.processor - earlier.processor,
            log: self.log - earlier.log,
        }
    }
}

impl Database {
    /// Starts it in a new directory below `dir`.
    pub async fn start(dir: &Path) -> Result<Self, Failure> {
        // It does not run as root, and its user must come by.
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o711))?;
        let dir = tempfile::Builder::new()
            .prefix("pg")
            .tempdir_in(dir)?
            .keep();
        let start = || starter::Server::start_by(Command::new("sh"), "127.0.0.1", dir);
        let server = tokio::task::spawn_blocking(start).await?;
        // What it logs is read.
        server.configure("lc_messages = 'C'\nlog_line_prefix = '[%p] '");
        server.reload();
        Ok(Self(server))
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// A new database in it; its URL as a server's store.
    pub async fn create(&self, name: &str) -> Result<String, Failure> {
        let admin = self.client("postgres").await?;
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await?;
        let port = self.0.port;
        Ok(format!("postgres://postgres@127.0.0.1:{port}/{name}"))
    }

    /// A connection to a database, that of an administrator.
    pub async fn client(&self, name: &str) -> Result<Client, Failure> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.0.port);
        config.user("postgres").dbname(name);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            // It ends with its client.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Several.
    pub async fn clients(&self, name: &str, count: usize) -> Result<Vec<Arc<Client>>, Failure> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(Arc::new(self.client(name).await?));
        }
        Ok(clients)
    }

    /// Has every new connection to a database tell all that it is asked, or not.
    pub async fn tell_all(&self, name: &str, all: bool) -> Result<(), Failure> {
        let how = if all { "all" } else { "none" };
        let sql = format!("ALTER DATABASE {name} SET log_statement = '{how}'");
        let admin = self.client("postgres").await?;
        Ok(admin.batch_execute(&sql).await?)
    }

    /// What it has told so far.
    pub fn told(&self) -> Result<String, Failure> {
        Ok(std::fs::read_to_string(self.0.log_path())?)
    }

    /// What it has done so far. `admin` is on another database than the one that
    /// is asked about.
    pub async fn load(&self, admin: &Client, name: &str) -> Result<Load, Failure> {
        let sql = "SELECT (xact_commit + xact_rollback)::float8,
            (pg_current_wal_lsn() - '0/0')::float8 FROM pg_stat_database WHERE datname = $1";
        let row = admin.query_one(sql, &[&name]).await?;
        Ok(Load {
            transactions: row.try_get(0)?,
            log: row.try_get(1)?,
            processor: self.processor()?,
        })
    }

    /// The processor time of its processes so far, in milliseconds.
    pub fn processor(&self) -> Result<f64, Failure> {
        Ok(on_processor(self.0.pid().parse()?))
    }

    /// Connections to a database.
    pub async fn connections(&self, admin: &Client, name: &str) -> Result<f64, Failure> {
        let sql = "SELECT count(*)::float8 FROM pg_stat_activity WHERE datname = $1";
        Ok(admin.query_one(sql, &[&name]).await?.try_get(0)?)
    }
}
