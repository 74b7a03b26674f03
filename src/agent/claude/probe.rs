//! Finding out, by trying, what the CLI is and can do.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use claude_wrapper::version::{CliVersion, CliVersionStatus};

use super::Claude;
use crate::agent::{AgentError, Launch, Placement, Probe, Profile, Session};

/// The version whose manners this module was built and tested for.
const TESTED: (u32, u32, u32) = (2, 1, 330);
/// How long a process may take to end after a trial.
const GRACE: Duration = Duration::from_secs(5);

fn unusable<T>(sentence: String) -> Result<T, AgentError> {
    Err(AgentError::Unusable(sentence))
}

/// The program as an absolute path, found in `PATH` if it is a mere name.
pub(super) fn locate(program: &Path) -> Result<PathBuf, AgentError> {
    let name = program.display();
    let is_file = |path: &PathBuf| path.is_file();
    let found = if program.components().count() > 1 {
        std::path::absolute(program).ok().filter(is_file)
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|dir| dir.join(program))
            .find(is_file)
    };
    let Some(found) = found else {
        return unusable(format!(
            "the program {name} does not exist: install the Claude Code CLI or say where it is"
        ));
    };
    let mode = found.metadata().map_or(0, |meta| meta.permissions().mode());
    if mode & 0o111 == 0 {
        return unusable(format!("the program {name} is not executable"));
    }
    Ok(found)
}

impl Claude {
    pub(super) async fn try_out(&self) -> Result<Probe, AgentError> {
        let version = self.version().await?;
        let mut drift = Vec::new();
        let tested = CliVersion::new(TESTED.0, TESTED.1, TESTED.2);
        match version.status_within(&tested, &tested) {
            CliVersionStatus::Tested => {}
            status => {
                let than = match status {
                    CliVersionStatus::OlderThanMinimum { .. } => "older",
                    _ => "newer",
                };
                drift.push(format!(
                    "version {version} is {than} than {tested}, for which this was tested"
                ));
            }
        }
        let spares = match self.try_process(true).await {
            Ok(()) => true,
            Err(error) => {
                drift.push(format!(
                    "processes cannot be started ahead of their placement: {error}"
                ));
                false
            }
        };
        if !spares && let Err(error) = self.try_process(false).await {
            return unusable(error.to_string());
        }
        for sentence in &drift {
            tracing::warn!(sentence, "the CLI is not quite the one this was built for");
        }
        Ok(Probe {
            version: version.to_string(),
            spares,
            drift,
        })
    }

    async fn version(&self) -> Result<CliVersion, AgentError> {
        let program = &self.options.program;
        let output = tokio::process::Command::new(program)
            .arg("--version")
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let limit = self.options.start_timeout;
        let output = match tokio::time::timeout(limit, output).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => {
                return unusable(format!("{} cannot be run: {error}", program.display()));
            }
            Err(_) => {
                return unusable(format!(
                    "{} did not tell its version within {limit:?}",
                    program.display()
                ));
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        CliVersion::parse_version_output(&text).or_else(|_| {
            unusable(format!(
                "{} does not look like the Claude Code CLI: its version is `{}`",
                program.display(),
                text.chars().take(80).collect::<String>().trim()
            ))
        })
    }

    /// Starts a process with every flag that is needed, resets it and ends it.
    async fn try_process(&self, spare: bool) -> Result<(), AgentError> {
        let placement = Placement {
            working_dir: self.options.state_dir.clone(),
            system_prompt: None,
            append_system_prompt: Some("trial".into()),
        };
        let launch = Launch {
            profile: Profile::default(),
            placement: (!spare).then(|| placement.clone()),
            resume: None,
        };
        let mut session = self.start(launch).await?;
        let tried = async {
            if spare {
                session.claim(&placement).await?;
            }
            session.reset().await.map_err(|unclean| {
                AgentError::Unusable(format!("the CLI cannot be reset between tasks: {unclean}"))
            })
        };
        let tried = tried.await;
        session.end(GRACE).await;
        tried
    }
}
