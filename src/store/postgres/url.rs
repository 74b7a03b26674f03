//! What the URL of a store says.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::store::OpenError;

/// Connections for calls, if the URL does not say.
const CONNECTIONS: usize = 16;
const CONNECTIONS_MAX: usize = 512;
/// Longest time of a call, if the URL does not say.
const CALL: Duration = Duration::from_secs(10);
/// Longest time of making a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How soon a connection is found dead: that is silent, and that does not take
/// what is sent.
const SILENCE: Duration = Duration::from_secs(15);
const PROBES: Duration = Duration::from_secs(5);
const PROBES_MAX: u32 = 3;

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// No encryption.
    Plain,
    /// The system's authorities.
    System,
    /// Those in a file.
    File(PathBuf),
}

/// How to reach a database.
#[derive(Clone)]
pub(super) struct Target {
    pub config: Config,
    pub trust: Trust,
    pub connections: usize,
    pub call: Duration,
}

/// A parameter's value. What it says is not repeated.
fn refused(name: &str, want: &str) -> OpenError {
    OpenError(format!("the store's URL: `{name}` must be {want}"))
}

impl Target {
    /// Takes our own parameters out and leaves the rest to the driver.
    pub fn parse(url: &str) -> Result<Self, OpenError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut connections, mut call) = (CONNECTIONS, CALL);
        let (mut mode, mut roots) = (None, None);
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "pool_size" => {
                    let sizes = 2..=CONNECTIONS_MAX;
                    let size = value.parse().ok().filter(|n| sizes.contains(n));
                    connections = size.ok_or_else(|| refused(name, "a number from 2 to 512"))?;
                }
                "call_timeout" => {
                    let seconds = value.strip_suffix('s').unwrap_or(value).parse().ok();
                    let seconds = seconds.filter(|s| (1..=600).contains(s));
                    let seconds = seconds.ok_or_else(|| refused(name, "1 to 600 seconds"))?;
                    call = Duration::from_secs(seconds);
                }
                "sslmode" => mode = Some(value),
                "sslrootcert" => roots = Some(value),
                _ => rest.push(pair),
            }
        }
        let rest = rest.join("&");
        let mut config: Config = format!("{base}?{rest}").parse().map_err(|error| {
            // Which option, not its value: that may be a password.
            let why = std::error::Error::source(&error).map(ToString::to_string);
            let why = why.filter(|why| why.starts_with("unknown option"));
            let why =
                why.unwrap_or_else(|| "say postgres://USER:PASSWORD@HOST/DATABASE".to_owned());
            OpenError(format!("the store's URL is not understood: {why}"))
        })?;
        let trust = trust(mode, roots, &config)?;
        config.ssl_mode(match trust {
            Trust::Plain => SslMode::Disable,
            Trust::System | Trust::File(_) => SslMode::Require,
        });
        if config.get_application_name().is_none() {
            config.application_name("claudepool");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT.min(call));
        }
        config
            .keepalives_idle(SILENCE)
            .keepalives_interval(PROBES)
            .keepalives_retries(PROBES_MAX)
            .tcp_user_timeout(SILENCE);
        Ok(Self {
            config,
            trust,
            connections,
            call,
        })
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        match self.config.get_dbname() {
            Some(name) => format!("the database {name} at {host}"),
            None => format!("the database at {host}"),
        }
    }
}

/// Encryption is left out only on this machine, or where that is said.
fn trust(mode: Option<&str>, roots: Option<&str>, config: &Config) -> Result<Trust, OpenError> {
    let near = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            let ip = name.parse::<std::net::IpAddr>();
            name == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    });
    let verified = match roots {
        None | Some("system") => Trust::System,
        Some(path) => Trust::File(PathBuf::from(percent_decoded(path))),
    };
    match mode {
        Some("disable") => Ok(Trust::Plain),
        Some("require" | "verify-full") => Ok(verified),
        None if near && roots.is_none() => Ok(Trust::Plain),
        None => Ok(verified),
        Some(_) => Err(refused(
            "sslmode",
            "`verify-full`, `require` (the same here) or `disable`",
        )),
    }
}

/// `%2F` and its like, as in every URL.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%').then(|| after.get(..2)).flatten();
        let code = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Target {
        match Target::parse(url) {
            Ok(target) => target,
            Err(error) => panic!("{url}: {error}"),
        }
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_that_is_said() {
        for (url, trust) in [
            ("postgres://u@localhost/d", Trust::Plain),
            ("postgres://u@127.0.0.1/d", Trust::Plain),
            ("postgres://u@db.example/d", Trust::System),
            ("postgres://u@db.example/d?sslmode=disable", Trust::Plain),
            ("postgres://u@127.0.0.1/d?sslmode=require", Trust::System),
            (
                "postgres://u@127.0.0.1/d?sslrootcert=%2Fa%20b.pem",
                Trust::File("/a b.pem".into()),
            ),
        ] {
            assert_eq!(parsed(url).trust, trust, "{url}");
        }
    }

    #[test]
    fn a_parameter_that_is_not_understood_is_refused_by_its_name_alone() {
        for (query, name) in [
            ("pool_size=hunter2", "pool_size"),
            ("pool_size=1", "pool_size"),
            ("call_timeout=0s", "call_timeout"),
            ("sslmode=prefer", "sslmode"),
            ("colour=hunter2", "colour"),
            ("connect_timeout=hunter2", "not understood"),
        ] {
            let url = format!("postgres://u:secret@h/d?{query}");
            let said = Target::parse(&url).err().expect("refused").to_string();
            assert!(said.contains(name), "{said}");
            assert!(
                !said.contains("hunter2") && !said.contains("secret"),
                "{said}"
            );
        }
    }

    #[test]
    fn sizes_and_times_are_read_and_have_defaults() {
        let said = parsed("postgres://u@localhost/d?pool_size=4&call_timeout=3s");
        assert_eq!((said.connections, said.call), (4, Duration::from_secs(3)));
        let bare = parsed("postgres://u@localhost/d");
        assert_eq!((bare.connections, bare.call), (CONNECTIONS, CALL));
        assert_eq!(bare.config.get_application_name(), Some("claudepool"));
        assert_eq!(bare.place(), "the database d at localhost");
    }
}
