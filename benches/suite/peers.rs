//! Other people's programs, started in a scratch folder with an environment of
//! their own. `make bench-peers` fetches them.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::measure::Failure;

/// The folder that they were fetched into.
pub fn folder() -> Result<PathBuf, Failure> {
    let folder = std::env::var_os("BENCH_PEERS").map(PathBuf::from);
    folder.ok_or_else(|| "this row needs the peers: make bench-peers".into())
}

/// Runs a program to its end and gives the JSON that it printed last.
pub fn run(command: &mut Command) -> Result<serde_json::Value, Failure> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{:?} failed: {said}", command.get_program()).into());
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = said.lines().last().ok_or("a peer said nothing")?;
    Ok(serde_json::from_str(last)?)
}

/// A database that others bring along, ended when dropped.
pub struct Database {
    child: Child,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Redis, each change on disk before it is answered.
pub fn redis(dir: &Path) -> Result<Database, Failure> {
    let data = tempfile::tempdir_in(dir)?.keep();
    let unpacked = folder()?.join("redis");
    let libraries = ["usr/lib", "lib"].map(|lib| {
        let arch = format!("{}-linux-gnu", std::env::consts::ARCH);
        unpacked.join(lib).join(arch).display().to_string()
    });
    let port = free_port()?;
    let child = Command::new(unpacked.join("usr/bin/redis-server"))
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args([
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
        ])
        .arg("--dir")
        .arg(&data)
        .env("LD_LIBRARY_PATH", libraries.join(":"))
        .stdout(Stdio::null())
        .spawn()?;
    answering(Database { child, port })
}

fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

fn answering(database: Database) -> Result<Database, Failure> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, database.port)).is_ok() {
            // It may still be refusing work.
            std::thread::sleep(Duration::from_millis(500));
            return Ok(database);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("a database did not start".into())
}
